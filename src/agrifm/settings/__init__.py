"""What all settings written in YAML share: the model of a section, single overrides, explanations of problems."""
