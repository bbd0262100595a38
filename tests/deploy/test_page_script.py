"""The script of the server's page, run by node without a browser: what it draws of an answer."""

import json
import math
import re
import shutil
import subprocess
from importlib.resources import files

import pytest
import torch

from boxwright.deploy.serve.answer import listed
from boxwright.ops.rotated import rotated_corners, rotated_hull
from boxwright.structures import Classes, CroppedMask, Detections, Panoptic, PanopticSegment

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node, which runs the page's script, is not installed")
DOCUMENT = """
class Element {
  constructor(name) { Object.assign(this, {name, children: [], attributes: {}, style: {}, textContent: ""}); }
  classList = {toggle() {}, add() {}};
  append(...some) {
    for (const one of some) {
      if (one.parent) one.parent.children = one.parent.children.filter(other => other !== one);
      if (one instanceof Element) one.parent = this;
      this.children.push(one);
    }
  }
  replaceChildren() { this.children = []; }
  setAttribute(key, value) { this.attributes[key] = String(value); }
  getBoundingClientRect() { return {width: 100}; }
}
const elements = {}, window = {}, fetch = () => new Promise(() => {});
const document = {
  getElementById: id => elements[id] ??= new Element(id),
  createElement: name => new Element(name),
  createElementNS: (space, name) => new Element(name),
};
"""
RESULT = """
const text = node => node instanceof Element ? node.textContent + node.children.map(text).join("") : node;
const plain = ({name, attributes, children}) => ({name, attributes, children: children.map(plain)});
draw();
console.log(JSON.stringify({shapes: elements.shapes.children.map(plain), tags: elements.tags.children.map(text),
                            rows: elements.rows.children.map(text), status: elements.status.textContent}));
"""


def drawn(found, score=0.3, **model):
    """What the page draws of detections: groups of shapes from the lowest, tags, rows of the table, and the status."""
    page = (files("boxwright.deploy.serve") / "page.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*)</script>", page, re.DOTALL)
    classes = found.classes
    colours = [{"label": name, "category_id": number, "colour": "#102030"}
               for name, number in zip(classes.names, classes.ids, strict=True)]  # fmt: skip
    stuff = [{"label": name, "category_id": 0, "colour": "#405060"} for name in classes.semantic_names]
    known = {"masks": False, "segments": False, "keypoints": None, "classes": colours, "stuff": stuff, **model}
    given = f"model = {json.dumps(known)}; answer = {json.dumps(listed(found, 'polygons') | {'milliseconds': 5})};"
    given += f'document.getElementById("score").value = "{score}";'
    run = [NODE, "-e", DOCUMENT + script + given + RESULT]
    return json.loads(subprocess.run(run, capture_output=True, check=True, text=True, timeout=60).stdout)


def test_a_rotated_box_lies_where_its_corners_are():
    rotated = torch.tensor([[60.0, 50, 70, 20, 30], [150, 60, 60, 20, -75]])
    classes = Classes.named("ab")
    found = Detections(rotated_hull(rotated), torch.tensor([0.9, 0.2]), torch.tensor([0, 1]), (120, 200), classes,
                       rotated=rotated)  # fmt: skip
    page = drawn(found)
    assert (page["tags"], page["status"]) == (["a 0.90"], "1 of 2 detections, 200 x 120 pixels, 5 ms")
    (group,) = page["shapes"]
    place = group["children"][0]["attributes"]
    x, y, width, height = (float(place[key]) for key in ("x", "y", "width", "height"))
    degrees, cx, cy = map(float, re.fullmatch(r"rotate\((\S+) (\S+) (\S+)\)", place["transform"]).groups())
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))  # SVG turns from x to y, which is down
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    turned = [[cx + cos * (a - cx) - sin * (b - cy), cy + sin * (a - cx) + cos * (b - cy)] for a, b in corners]
    torch.testing.assert_close(torch.tensor(turned), rotated_corners(rotated[0]), atol=1e-3, rtol=0)


def test_objects_without_a_segment_are_left_out_and_stuff_lies_below():
    classes = Classes(("cat", "<b>dog</b>"), (4, 9), stuff=("sky", "road"))
    ids = torch.full((12, 20), 3, dtype=torch.int32)
    ids[8:], ids[2:6, 3:9] = 5, 1
    boxes = torch.tensor([[0.0, 0, 4, 4], [3, 2, 9, 6]])
    masks = (CroppedMask(0, 0, torch.ones(4, 4).bool()), CroppedMask(3, 2, torch.ones(4, 6).bool()))
    segments = (PanopticSegment(1, 1, True, 0.8, 1, 24), PanopticSegment(3, 0, False, None, None, 136),
                PanopticSegment(5, 1, False, None, None, 80))  # fmt: skip
    found = Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), (12, 20), classes, masks,
                       semantic=torch.ones(12, 20, dtype=torch.uint8), panoptic=Panoptic(ids, segments))  # fmt: skip
    page = drawn(found, masks=True, segments=True)
    assert page["tags"] == ["<b>dog</b> 0.80"]
    assert page["rows"] == ["<b>dog</b>0.8003, 2, 9, 6", "sky56.7 % of the pixels", "road33.3 % of the pixels"]
    assert page["status"] == "1 of 1 objects, 2 areas of stuff, 20 x 12 pixels, 5 ms"
    kinds = [[one["name"] for one in group["children"]] for group in page["shapes"]]
    assert kinds == [["path"], ["path"], ["path", "rect"]]
    assert [group["children"][0]["attributes"]["fill"] for group in page["shapes"]] == ["#405060"] * 2 + ["#102030"]
    hidden = drawn(found, score=0.85, masks=True, segments=True)
    assert (hidden["tags"], len(hidden["shapes"])) == ([], 2)
