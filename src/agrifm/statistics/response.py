"""The response design: what people who interpret a sample may know, in a file that is given to them with it.

Source: Stehman and Czaplewski 1998, Design and analysis for thematic map accuracy assessment, Remote Sensing of
Environment 64, 331-344, who separate it from the sampling design.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pyproj import CRS

from agrifm.errors import InputError, refusing
from agrifm.settings.problems import explain
from agrifm.statistics.design import Design

FORMAT = "agrifm-response-design-1"
Length = Annotated[float, Field(gt=0, lt=1e6)]  # of a pixel; none is wider than 1000 km
REPAIR = "ask whoever drew the sample for this file; 'agrifm area design' writes it beside the sample."


class ResponseDesign(BaseModel):
    """The classes to choose from and the size of a pixel. It tells nothing about strata or the map.

    Args:
        design: Key of the sampling design.
        crs: CRS of the map.
        pixel: Width and height of a pixel in units of the CRS; None if they are not known.
        classes: Names of the classes in the order of the design.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["agrifm-response-design-1"] = FORMAT
    design: str
    crs: str
    pixel: tuple[Length, Length] | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=1)]

    @classmethod
    def of(cls, design: Design) -> ResponseDesign:
        """Return the part of a sampling design that interpreters may know."""
        names = tuple(entry.name for entry in design.classes)
        return cls(design=design.key, crs=design.crs, pixel=design.pixel, classes=names)

    @staticmethod
    def beside(sample: Path) -> Path:
        """Return the path of a sample's response design."""
        return sample.with_name(sample.name + ".response.json")

    @classmethod
    def load(cls, sample: Path) -> ResponseDesign:
        """Read what interpreters may know, from the sampling design if it lies beside the sample.

        Raises:
            InputError: If neither design lies beside the sample, or it cannot be used.
        """
        # Classes that the map lacks are added to the sampling design, so it comes first.
        if Design.beside(sample).is_file():
            return cls.of(Design.load(sample))
        path = cls.beside(sample)
        if not path.is_file():
            raise InputError(
                sample,
                found=f"neither {path.name} nor {Design.beside(sample).name} beside it",
                expected="the file that names the classes to choose from",
                repair=REPAIR,
            )
        try:
            response = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise explain(error, path, cls, repair=REPAIR) from error
        except (OSError, ValueError) as error:
            raise InputError(path, found=f"the file: {error}", expected="a response design", repair=REPAIR) from error
        with refusing(f"{path}: crs", expected="the CRS of the map", repair=REPAIR):
            CRS.from_user_input(response.crs)
        return response
