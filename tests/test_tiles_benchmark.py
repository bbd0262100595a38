"""The benchmark of tiles, in small: objects that vanish when their image is resized are found in its tiles."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_small_objects_are_found_in_tiles_twice_as_well_as_in_resized_images(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    tiles = importlib.import_module("benchmarks.tiles")
    tiles.draw_images(tmp_path / "data", train=4, val=2, size=400, pixels=12, objects=(10, 14))
    ap = {
        name: tiles.measure(name, tmp_path / "data", tmp_path / "runs", settings, seed=0, device="cpu").ap
        for name, settings in tiles.variants(tile=96, resized=96, steps=60).items()
    }
    assert list(ap) == ["tiles of 96", "resized to 96"]
    assert ap["tiles of 96"] > max(0.1, 2 * ap["resized to 96"]), ap
