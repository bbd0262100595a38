"""What `evaluate` leaves out of its figures is named."""

import torch

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.recipes import load_recipe
from boxwright.structures import Classes


def test_an_image_whose_only_annotation_was_rejected_is_named_and_not_taken_for_background(boxwright, voc, tmp_path):
    data = voc(tmp_path / "voc", val=("p2.png", "p3.png", "p4.png"), names=("cell",))
    file = data / "Annotations" / "p3.xml"
    file.write_text(file.read_text().replace("<xmin>8<", "<xmin>30<"))  # no width is left
    torch.manual_seed(0)
    recipe = load_recipe("fcos-shapes", ["model.fpn.channels=16", "model.head.stem_channels=[16]", "precision=fp32"])
    model = recipe.build_model(1)
    save_checkpoint(Checkpoint(recipe, Classes(("cell",), (1,)), model.state_dict(), 0.0), tmp_path / "a.pt")

    done = boxwright("evaluate", tmp_path / "a.pt", "--data", data, "--device", "cpu")
    assert done.code == 0, done
    (sentence,) = [line for line in done.err.splitlines() if "p3" in line]
    assert sentence.startswith("boxwright: ")
    assert str(data / "JPEGImages" / "p3.png") in sentence
    assert "left out" in sentence
    assert done.out.splitlines()[-1:] != []
    assert "2 images" in done.out
