import pytest
import torch

from boxwright.convert.keymap import Layout, flipped, give_weights, joined, reordered, take_weights, without_first

LAYOUT = Layout(
    family="somebody",
    rows=[(r"head\.(\d)\.", r"their.head\1."), (r"body\.", "their.body.")],
    changes=(
        flipped("body.conv1.weight", "their.first"),
        joined("scales", ("scale.0", "scale.1")),
        reordered("rows", "their.rows", torch.tensor([2, 0, 1])),
        without_first("boxes", "their.boxes", 2),
    ),
    dropped=(r"anchors\.\d",),
)
OURS = {
    "head.0.weight": torch.zeros(2, 3), "body.bias": torch.zeros(4), "body.conv1.weight": torch.zeros(1, 3, 1, 1),
    "scales": torch.zeros(2), "rows": torch.zeros(3), "boxes": torch.zeros(3, 2), "mean_positives": torch.tensor(7.0),
}  # fmt: skip
THEIRS = {
    "their.head0.weight": torch.arange(6.0).reshape(2, 3), "their.body.bias": torch.ones(4),
    "their.first": torch.arange(3.0).reshape(1, 3, 1, 1),
    "scale.0": torch.tensor([5.0]), "scale.1": torch.tensor([6.0]),
    "their.rows": torch.tensor([10.0, 11.0, 12.0]), "their.boxes": torch.arange(10.0).reshape(5, 2),
}  # fmt: skip


def test_entries_are_renamed_turned_joined_and_sorted():
    weights, kept = take_weights(OURS, {**THEIRS, "anchors.0": torch.ones(1)}, LAYOUT, "a.pth")
    assert list(weights) == list(OURS)
    assert torch.equal(weights["head.0.weight"], THEIRS["their.head0.weight"])
    assert weights["body.conv1.weight"].flatten().tolist() == [2, 1, 0]
    assert weights["scales"].tolist() == [5, 6]
    assert weights["rows"].tolist() == [12, 10, 11]
    assert weights["boxes"].tolist() == [[4, 5], [6, 7], [8, 9]]
    assert weights["mean_positives"] == 7
    assert list(kept) == ["their.boxes"]


def test_the_way_back_is_exact():
    weights, kept = take_weights(OURS, THEIRS, LAYOUT, "a.pth")
    back = give_weights(weights, LAYOUT, kept)
    assert set(back) == set(THEIRS)
    assert all(torch.equal(back[name], value) for name, value in THEIRS.items())
    assert give_weights(weights, LAYOUT)["their.boxes"][:2].eq(0).all()  # unknown rows that nobody reads


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": torch.ones(1)}, "1 entry unused: surprise"),
        ({"their.body.bias": torch.ones(5)}, r"of another shape: their\.body\.bias \(5,\) \(expected \(4,\)\)"),
        ({"their.rows": torch.ones(4)}, "expected 3 rows, got 4"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=f"a.pth: .*{message}"):
        take_weights(OURS, {**THEIRS, **change}, LAYOUT, "a.pth")


def test_every_missing_entry_is_told_with_the_unused_ones():
    state = {name: value for name, value in THEIRS.items() if name not in ("scale.1", "their.body.bias")}
    with pytest.raises(ValueError, match=r"2 entries missing: their\.body\.bias, scale\.1; 1 entry unused: x"):
        take_weights(OURS, {**state, "x": torch.ones(1)}, LAYOUT, "a.pth")
