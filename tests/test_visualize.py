import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth
from boxwright.visualize import class_colour, contact_sheet, draw, mask_image, save, side_by_side, text_colour
from boxwright.visualize.drawing import IGNORED_COLOUR, NUM_COLOURS, PALETTE, Item, Room, font_of, shortened

GREY = 128


def make_image(height=120, width=160):
    return torch.full((3, height, width), GREY, dtype=torch.uint8)


def pixels(image):
    return np.asarray(image)


def changed(image):
    return (pixels(image) != GREY).any(2)


def detections(boxes, scores=None, labels=None, size_hw=(120, 160), **more):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.full((len(boxes),), 0.9) if scores is None else torch.tensor(scores)
    labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Detections(boxes, scores, labels, size_hw, **more)


def oklab(colour):
    value = np.array(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_cone = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                        [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
    to_lab = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                       [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
    return to_lab @ np.cbrt(to_cone @ linear)


def luminance(colour):
    value = np.array(colour) / 255
    return float(np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


class TestMaskImage:
    """`predict --masks`."""

    def found(self, count):
        masks = tuple(CroppedMask(2 * index, 1, torch.ones(3, 4, dtype=torch.bool)) for index in range(count))
        boxes = torch.tensor([[2.0 * index, 1, 2 * index + 4, 4] for index in range(count)])
        return Detections(boxes, torch.linspace(1, 0.1, count), torch.arange(count) % 3, (8, 700), masks=masks)

    def test_pixels_say_which_object_and_the_better_one_lies_on_top(self):
        image = mask_image(self.found(3))
        pixels = np.array(image)
        assert image.mode == "P"
        assert pixels.shape == (8, 700)
        assert pixels[1, :9].tolist() == [1, 1, 1, 1, 2, 2, 3, 3, 0]
        assert pixels[0].max() == pixels[4:].max() == 0
        assert image.convert("RGB").getpixel((0, 1)) == class_colour(0)

    def test_more_objects_than_a_byte_counts(self, tmp_path):
        mask_image(self.found(300)).save(tmp_path / "many.png")
        pixels = np.array(Image.open(tmp_path / "many.png"))
        assert pixels.max() == 300
        assert pixels[2, 598] == 299

    def test_without_masks_is_refused(self):
        with pytest.raises(ValueError, match="no masks"):
            mask_image(replace(self.found(2), masks=None))


class TestColours:
    @pytest.mark.parametrize(("count", "apart"), [(3, 0.25), (10, 0.15), (31, 0.09), (64, 0.06)])
    def test_classes_are_far_apart_in_a_perceptual_space(self, count, apart):
        lab = np.array([oklab(class_colour(label)) for label in range(count)])
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + np.eye(count)
        assert distance.min() > apart

    def test_no_class_looks_like_the_grey_of_ignored_regions(self):
        grey = oklab(IGNORED_COLOUR)
        assert min(np.linalg.norm(oklab(class_colour(label)) - grey) for label in range(64)) > 0.08

    def test_colour_depends_on_the_class_index_alone(self):
        assert class_colour(5) == class_colour(5 + NUM_COLOURS)
        # Recorded: a change here changes the colours of everybody's images.
        assert [class_colour(label) for label in range(3)] == [(227, 69, 220), (26, 73, 238), (93, 239, 52)]
        assert len(set(PALETTE)) == NUM_COLOURS

    def test_text_stands_out_on_every_class_colour(self):
        for label in range(64):
            light = sorted((luminance(class_colour(label)), luminance(text_colour(class_colour(label)))))
            assert (light[1] + 0.05) / (light[0] + 0.05) > 3

    def test_text_is_black_on_white_and_white_on_black(self):
        assert text_colour((255, 255, 255)) == (0, 0, 0)
        assert text_colour((0, 0, 0)) == (255, 255, 255)


class TestDraw:
    def test_frame_lies_on_the_edges_of_the_box(self):
        drawn = pixels(draw(make_image(), GroundTruth.of([[40, 50, 100, 90]], [3])))
        colour = class_colour(3)
        assert tuple(drawn[89, 70]) == colour  # bottom row of the box, which ends before y = 90
        assert tuple(drawn[70, 40]) == tuple(drawn[70, 99]) == colour
        assert tuple(drawn[70, 70]) == tuple(drawn[70, 101]) == tuple(drawn[91, 70]) == (GREY,) * 3

    def test_image_without_objects_stays_as_it_is(self):
        assert not changed(draw(make_image(), GroundTruth.empty())).any()

    @pytest.mark.parametrize(
        "box", [[200, 10, 220, 30], [-30, 10, -5, 30], [float("nan")] * 4, [0, 0, float("inf"), 9]]
    )
    def test_box_outside_or_not_finite_is_left_out(self, box):
        assert not changed(draw(make_image(), detections([box]))).any()

    def test_box_thinner_than_a_pixel_is_still_seen(self):
        assert changed(draw(make_image(), detections([[50.1, 60.1, 50.2, 60.2]]))).any()

    def test_detections_under_the_least_score_are_left_out(self):
        found = detections([[20, 60, 50, 90], [100, 60, 130, 90]], scores=[0.9, 0.3])
        drawn = changed(draw(make_image(), found, min_score=0.5))
        assert drawn[:, 15:60].any()
        assert not drawn[:, 95:135].any()

    @pytest.mark.parametrize(("scale", "size"), [(1.0, (160, 120)), (3.0, (480, 360)), (0.5, (80, 60))])
    def test_scale_enlarges_image_and_boxes_alike(self, scale, size):
        image = draw(make_image(), GroundTruth.of([[40, 60, 120, 110]], [0]), scale=scale)
        assert image.size == size
        assert pixels(image)[int(90 * scale), int(40 * scale)].tolist() == list(class_colour(0))

    @pytest.mark.parametrize(
        ("width", "height", "line"), [(160, 120, 1), (640, 480, 2), (1280, 960, 4), (4000, 3000, 13)]
    )
    def test_lines_grow_with_the_image(self, width, height, line):
        """At 640 x 480 two pixels; one of an image of twelve megapixels would not be seen."""
        box = [width / 4, height / 4, 3 * width / 4, 3 * height / 4]
        drawn = pixels(draw(make_image(height, width), GroundTruth.of([box], [0]), masks=False))
        left = (drawn[height // 2, : width // 2] == class_colour(0)).all(1).nonzero()[0]
        assert left.tolist() == list(range(width // 4, width // 4 + line))

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_the_given_image_is_not_drawn_upon(self, channels_last):
        image = torch.full((120, 160, 3), GREY, dtype=torch.uint8).permute(2, 0, 1)
        image = image if channels_last else image.contiguous()
        masks = [CroppedMask(10, 10, torch.ones(20, 20, dtype=torch.bool))]
        draw(
            image,
            GroundTruth.of([[10, 10, 30, 30]], [0], masks=masks),
        )
        assert (image == GREY).all()

    def test_names_come_from_the_argument_then_from_the_detections(self):
        box, few = [[20, 60, 90, 110]], Classes.named(["a"])
        own = draw(make_image(), detections(box, classes=few))
        assert own.tobytes() == draw(make_image(), detections(box), classes=few).tobytes()
        assert own.tobytes() != draw(make_image(), detections(box)).tobytes()

    def test_ignored_region_has_no_class_colour(self):
        drawn = pixels(draw(make_image(), GroundTruth.of([[40, 50, 100, 90]], [0], [True])))
        assert not (drawn == class_colour(0)).all(2).any()
        inside = drawn[55:85, 45:95]
        assert 0 < (inside != GREY).any(2).mean() < 0.6  # hatched: some pixels changed, most not

    def test_a_float_image_is_one_of_fractions(self):
        empty = GroundTruth.empty()
        assert np.array_equal(draw(make_image().float() / 255, empty), draw(make_image(), empty))
        with pytest.raises(ValueError, match=r"uint8 or float in \[0, 1\]"):
            draw(make_image().float(), GroundTruth.empty())

    def test_detections_of_another_image_are_refused(self):
        with pytest.raises(ValueError, match=r"300 x 300 .* 120 x 160"):
            draw(make_image(), detections([[1, 1, 9, 9]], size_hw=(300, 300)))


class TestMasks:
    bitmap = torch.ones(30, 40, dtype=torch.bool)
    ground_truth = GroundTruth.of([[50, 60, 90, 90]], [1], masks=[CroppedMask(50, 60, bitmap)])

    def test_fill_is_translucent_within_the_mask_only(self):
        drawn = changed(draw(make_image(), self.ground_truth))
        assert drawn[60:90, 50:90].all()
        assert not drawn[92:].any()
        assert not drawn[:, 92:].any()
        inside = pixels(draw(make_image(), self.ground_truth))[75, 70].astype(float)
        assert (np.abs(inside - GREY) < np.abs(np.array(class_colour(1)) - GREY)).all()

    def test_masks_can_be_left_out(self):
        assert not changed(draw(make_image(), self.ground_truth, masks=False))[70:80, 60:80].any()

    def test_full_and_cropped_masks_look_the_same(self):
        full = torch.zeros(1, 120, 160, dtype=torch.bool)
        full[0, 60:90, 50:90] = True
        found = detections([[50, 60, 90, 90]], labels=[1], masks=full)
        assert pixels(draw(make_image(), found))[62:88, 52:88].tolist() == \
            pixels(draw(make_image(), self.ground_truth))[62:88, 52:88].tolist()  # fmt: skip

    @pytest.mark.parametrize("scale", [1.0, 2.5, 0.4])
    def test_empty_mask_and_mask_at_the_border(self, scale):
        full = torch.zeros(2, 120, 160, dtype=torch.bool)
        full[1, 100:, 140:] = True
        image = draw(make_image(), detections([[5, 5, 9, 9], [140, 100, 160, 120]], masks=full), scale=scale)
        assert changed(image)[-1, -1]


class TestTags:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 110), st.integers(1, 60), st.integers(1, 60)),
                    min_size=1, max_size=40), st.booleans())  # fmt: skip
    def test_tags_stay_inside_and_free_places_overlap_no_tag(self, rows, must):
        rectangles = [(x, y, min(x + w, 160), min(y + h, 120)) for x, y, w, h in rows]
        items = [Item(r, 0, False, ("a", "a"), i) for i, r in enumerate(rectangles)]
        room = Room((160, 120), 4, items)
        before = 0
        for rectangle in rectangles:
            spot = room.place(rectangle, (30, 12), must=must)
            assert spot is not None or not must
            if spot is not None:
                assert 0 <= spot[0] <= 130
                assert 0 <= spot[1] <= 108
            if spot is not None and not must:
                assert int(room.taken.sum()) == before + 30 * 12
            before = int(room.taken.sum())

    def test_tag_of_a_box_at_the_top_left_corner_is_whole(self):
        drawn = draw(make_image(), detections([[0, 0, 60, 50]], classes=Classes.named(["cat"])))
        inner = draw(make_image(), detections([[40, 60, 100, 110]], classes=Classes.named(["cat"])))
        # Pixels of text are neither ground nor pure class colour: as many at the corner as in the middle.
        text = [(changed(image) & (pixels(image) != class_colour(0)).any(2)).sum() for image in (drawn, inner)]
        assert text[0] == text[1] > 0

    def test_every_class_has_a_tag_in_a_crowd(self):
        grid = [[x, y, x + 6, y + 6] for x in range(0, 150, 8) for y in range(0, 112, 8)]
        labels = [index % 2 for index in range(len(grid))]
        classes = Classes.named(["elephant", "giraffe"])  # wider than any of the boxes
        drawn = pixels(draw(make_image(), detections(grid, labels=labels, classes=classes), scale=2.0))
        for label in (0, 1):
            filled = (drawn == class_colour(label)).all(2)
            runs = filled[:, :-4] & filled[:, 1:-3] & filled[:, 2:-2] & filled[:, 3:-1] & filled[:, 4:]
            blocks = runs[:-3] & runs[1:-2] & runs[2:-1] & runs[3:]  # frames are one or two pixels thick, tags are not
            assert blocks.any()

    def test_letters_beyond_ascii_are_not_drawn_as_empty_boxes(self):
        names = ["é", "è", "ß", "ł", "Ж", "\uffff"]
        drawn = [draw(make_image(), detections([[20, 60, 90, 110]], classes=Classes.named([name]))) for name in names]
        assert len({image.tobytes() for image in drawn}) == len(names)

    def test_name_wider_than_the_image_is_cut(self):
        font = font_of(12, True)
        cut = shortened("a name of many words that goes on and on", font, 80)
        assert cut.endswith("…")
        assert font.getlength(cut) <= 80
        assert draw(make_image(), detections([[5, 50, 60, 90]], classes=Classes.named(["x" * 300]))).size == (160, 120)

    def test_hundred_boxes_take_milliseconds(self):
        generator = torch.Generator().manual_seed(0)
        corner = torch.rand(100, 2, generator=generator) * torch.tensor([560.0, 400.0])
        boxes = torch.cat([corner, corner + 12 + 80 * torch.rand(100, 2, generator=generator)], 1)
        found = Detections(boxes, torch.rand(100), torch.arange(100) % 31, (480, 640))
        image, times = make_image(480, 640), []
        for _ in range(5):
            start = time.perf_counter()
            draw(image, found)
            times.append(time.perf_counter() - start)
        assert min(times) < 0.1  # 13 ms on a free core; the bound leaves room for a busy machine


class TestSheets:
    def test_contact_sheet_holds_every_image(self):
        colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
        sheet = contact_sheet([Image.new("RGB", (20 + i, 10), c) for i, c in enumerate(colours)], columns=2)
        assert sheet.size == (2 * 24 + 3 * 2, 3 * 10 + 4 * 2)
        for index, colour in enumerate(colours):
            assert (pixels(sheet) == colour).all(2).sum() == (20 + index) * 10

    @pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (16, 4)])
    def test_contact_sheet_is_nearly_square(self, count, columns):
        sheet = contact_sheet([Image.new("RGB", (100, 100))] * count)
        assert sheet.width == columns * 100 + (columns + 1) * 2

    def test_empty_contact_sheet_is_refused(self):
        with pytest.raises(ValueError, match="at least one"):
            contact_sheet([])

    def test_side_by_side_is_one_row_under_titles(self):
        image = Image.new("RGB", (100, 50), (10, 20, 30))
        row = side_by_side([image, image, image], ["ground truth", "Größe", "a title that is much too long for it"])
        assert row.width == 3 * 100 + 4 * 2
        assert (pixels(row) == (10, 20, 30)).all(2).sum() == 3 * 100 * 50
        with pytest.raises(ValueError, match="2 images but 1"):
            side_by_side([image, image], ["one"])


class TestSave:
    def test_lossless_format_gives_the_same_pixels_back(self, tmp_path):
        image = draw(make_image(), detections([[40, 50, 100, 90]]))
        save(image, tmp_path / "a.PNG")
        assert pixels(Image.open(tmp_path / "a.PNG")).tolist() == pixels(image).tolist()

    @pytest.mark.parametrize(("name", "form"), [("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a.tif", "TIFF")])
    def test_suffix_chooses_the_format(self, tmp_path, name, form):
        save(draw(make_image(), GroundTruth.empty()), str(tmp_path / name))
        assert Image.open(tmp_path / name).format == form

    def test_unknown_suffix_is_refused_with_the_known_ones(self, tmp_path):
        with pytest.raises(ValueError, match=r"a\.gif.*\.png"):
            save(Image.new("RGB", (4, 4)), tmp_path / "a.gif")


def test_an_identity_has_its_colour_and_texts_of_lines_lie_apart():
    from boxwright.visualize.borders import PAPER, draw_borders

    found = Detections(torch.tensor([[10.0, 10, 60, 60]]), torch.ones(1), torch.tensor([0]), (80, 120))
    plain = np.zeros((80, 120, 3), np.uint8)
    for identity in (3, 5):
        drawn = np.asarray(draw(plain, found, ids=[identity]))
        assert tuple(drawn[59, 30]) == class_colour(identity)
    one, two = (
        np.asarray(draw_borders(Image.fromarray(plain), borders))
        for borders in ([([(5, 70), (5, 75)], "in 1")], 2 * [([(5, 70), (5, 75)], "in 1")])
    )
    assert (two == PAPER).all(-1).sum() > 1.6 * (one == PAPER).all(-1).sum()


def test_a_rotated_box_is_drawn_along_its_own_sides_and_not_as_its_hull():
    turned = torch.tensor([[80.0, 60, 80, 20, 45]])
    found = detections([[44.6, 24.6, 115.4, 95.4]], rotated=turned)
    seen = changed(draw(make_image(), found))
    assert seen[60 - 28, 80 + 28 - 14 : 80 + 28 + 14].any()  # its right end lies above the centre
    assert not seen[85:95, 100:115].any()  # the hull's lower right corner is empty
    colours = pixels(draw(make_image(), found))
    assert (colours == np.array(class_colour(0))).all(-1).sum() > 100
    truth = GroundTruth.of([[44.6, 24.6, 115.4, 95.4]], [0], rotated=turned)
    assert not changed(draw(make_image(), truth))[85:95, 100:115].any()
