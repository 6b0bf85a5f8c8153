"""From a map to statistics: yardsticks and accuracy."""
