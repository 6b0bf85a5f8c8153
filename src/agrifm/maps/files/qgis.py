"""Layer definitions for QGIS: one file that opens the layers of a map in a group, with their styles.

Source: the format that QGIS 3 reads and writes with "Add from Layer Definition File".
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from agrifm.maps.files.cog import MapProduct
from agrifm.maps.files.legend import Legend, add_raster_style, document_text, plain

DOCTYPE = "<!DOCTYPE qgis-layer-definition>\n"
# Colors of shares from 0 to 1: those of viridis at equal steps.
SHARES = ((0.0, "#440154"), (0.25, "#3b528b"), (0.5, "#21918c"), (0.75, "#5ec962"), (1.0, "#fde725"))
OUTLINE = {"style": "no", "outline_color": "0,0,0,255", "outline_style": "solid", "outline_width": "0.4"}


@dataclass(frozen=True)
class QgisLayer:
    """One layer of a definition.

    Args:
        path: File of the layer.
        name: Name in the layer tree.
        legend: Legend of a map of classes.
        outlines: Whether the file holds polygons, which are drawn as outlines. Otherwise, and without a legend, it is a
            raster of shares from 0 to 1.
        visible: Whether the layer is shown when the definition is opened.
    """

    path: Path
    name: str
    legend: Legend | None = None
    outlines: bool = False
    visible: bool = True


def raster_layers(target: Path, products: Sequence[MapProduct]) -> list[QgisLayer]:
    """Layers of a map, in the order of the layer tree: the classes, then rasters of one share, which begin hidden.

    Args:
        target: Path of ``OUT.tif``.
        products: Written rasters.
    """
    layers = []
    for product in products:
        path = product.path(target)
        if product.legend is not None:
            layers.append(QgisLayer(path, "classes", product.legend))
        elif len(product.bands) == 1 and product.scale != 1:
            layers.append(QgisLayer(path, product.key, visible=False))
    return layers


def layer_definition(path: Path, group: str, layers: Sequence[QgisLayer], wkt: str) -> str:
    """Text of a layer definition.

    Args:
        path: Path of the definition; the files of the layers are named relative to it.
        group: Name of the group in the layer tree.
        layers: Layers, the uppermost first.
        wkt: CRS of all layers as WKT.
    """
    root = Element("qlr")
    tree = SubElement(root, "layer-tree-group", name="", checked="Qt::Checked", expanded="1")
    folder = SubElement(tree, "layer-tree-group", name=plain(group), checked="Qt::Checked", expanded="1")
    described = SubElement(root, "maplayers")
    for number, layer in enumerate(layers):
        identifier = f"agrifm_{number}_{layer.name}"
        source = _relative(layer.path, path.parent)
        SubElement(
            folder,
            "layer-tree-layer",
            id=identifier,
            name=layer.name,
            source=source,
            providerKey=_provider(layer),
            checked="Qt::Checked" if layer.visible else "Qt::Unchecked",
            expanded="1" if layer.visible else "0",
        )
        _describe(described, layer, identifier, source, wkt)
    return DOCTYPE + document_text(root)


def _relative(file: Path, folder: Path) -> str:
    """Path from a folder to a file; the whole path if they lie on different drives of Windows."""
    try:
        path = Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:
        return file.absolute().as_posix()
    return path if path.startswith("../") else f"./{path}"


def _provider(layer: QgisLayer) -> str:
    return "ogr" if layer.outlines else "gdal"


def _describe(parent: Element, layer: QgisLayer, identifier: str, source: str, wkt: str) -> None:
    """Add one layer with its place, its CRS and its style."""
    kind = {"type": "vector", "geometry": "Polygon"} if layer.outlines else {"type": "raster"}
    element = SubElement(parent, "maplayer", kind)
    SubElement(element, "id").text = identifier
    SubElement(element, "datasource").text = source
    SubElement(element, "layername").text = layer.name
    reference = SubElement(SubElement(element, "srs"), "spatialrefsys")
    SubElement(reference, "wkt").text = wkt
    SubElement(element, "provider", encoding="UTF-8").text = _provider(layer)
    if layer.outlines:
        _add_outlines(element)
    elif layer.legend is not None:
        add_raster_style(element, layer.legend.renderer())
    else:
        add_raster_style(element, _shares())


def _shares() -> Element:
    """Renderer of a raster of shares, which QGIS reads with the scale of the band."""
    renderer = Element(
        "rasterrenderer", type="singlebandpseudocolor", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    renderer.set("classificationMin", "0")
    renderer.set("classificationMax", "1")
    SubElement(renderer, "rasterTransparency")
    ramp = SubElement(
        SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue="0",
        maximumValue="1",
    )
    for value, color in SHARES:
        SubElement(ramp, "item", value=f"{value:g}", label=f"{value:g}", color=color, alpha="255")
    return renderer


def _add_outlines(parent: Element) -> None:
    """Add a style that draws polygons without a fill, so that the map below stays visible."""
    renderer = SubElement(parent, "renderer-v2", type="singleSymbol", symbollevels="0", enableorderby="0")
    symbol = SubElement(SubElement(renderer, "symbols"), "symbol", type="fill", name="0", alpha="1")
    fill = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
    options = SubElement(fill, "Option", type="Map")
    for name, value in OUTLINE.items():
        SubElement(options, "Option", type="QString", name=name, value=value)
