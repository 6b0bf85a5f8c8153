"""Class tables: which code means which crop or cover, and which is part of which.

A table is a CSV or YAML file. It says by ``parent`` what is part of what, or by ``hcat`` what each code means in HCAT,
the crop taxonomy of EuroCrops (Schneider et al., Scientific Data 10, 2023), of which an extract is shipped. So tables
of different products share one hierarchy. The column ``cover`` of shipped tables gives the land cover for pre-training.
"""

from agrifm.tasks.class_table.rows import SHIPPED, Row, read_rows
from agrifm.tasks.class_table.table import Table, checked_colors
from agrifm.tasks.class_table.values import LONGEST_NAME, as_code, clean_name

__all__ = ["LONGEST_NAME", "SHIPPED", "Row", "Table", "as_code", "checked_colors", "clean_name", "read_rows"]
