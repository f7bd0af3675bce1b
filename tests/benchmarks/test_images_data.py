import gzip

import pytest
import torch
from benchmarks.images.data import (
    Modality,
    Samples,
    View,
    existing,
    pixels,
    read_idx,
    read_image,
    write_idx,
)
from PIL import Image


def drawn(samples, which=slice(None)):
    """Values of each view that the samples show, (view, sample)."""
    index = torch.arange(len(samples))[which]
    return torch.stack([(255 * part[:, 0]).round().long() for part in samples.batch(index)[0]])


def class_paired(fresh, n=40, n_items=60):
    """Items whose pixel is their own number, and whose class is that number modulo 4."""
    views = [pixels(torch.arange(n_items).byte()[:, None]) for _ in range(3)]
    classes = [torch.arange(n_items) % 4] * 3
    return Samples(views, torch.arange(n) % 4, classes, fresh)


def test_partners_are_of_one_class_in_every_epoch():
    samples = class_paired(fresh=True)
    for epoch in range(3):
        samples.redraw(epoch)
        assert (drawn(samples) % 4 == samples.labels).all()


def test_partners_are_redrawn_by_epoch_alone():
    samples = class_paired(fresh=True)
    samples.redraw(1)
    first = drawn(samples)
    samples.redraw(2)
    assert (drawn(samples) != first).any()
    samples.redraw(1)
    assert torch.equal(drawn(samples), first)


def test_held_out_samples_stay_as_they_are():
    samples = class_paired(fresh=False)
    before = drawn(samples)
    samples.redraw(5)
    assert torch.equal(drawn(samples), before)


def test_no_item_is_shown_twice_while_others_of_its_class_last():
    samples = class_paired(fresh=True, n=60)
    for part in drawn(samples):
        assert part.sort().values.tolist() == list(range(60))


def test_tensors_stay_in_place_when_redrawn():
    samples = class_paired(fresh=True)
    before = samples._items.data_ptr(), samples._versions.data_ptr()
    samples.redraw(3)
    assert (samples._items.data_ptr(), samples._versions.data_ptr()) == before


def test_a_class_without_items_is_an_error():
    views = [pixels(torch.zeros(4, 1).byte())] * 2
    labels = torch.tensor([0, 1, 1, 2])
    with pytest.raises(ValueError, match="class 2 in view 1"):
        Samples(views, labels, [labels, torch.tensor([0, 1, 1, 1])])


def test_versions_of_a_text_take_turns_and_are_one_hot():
    codes = torch.tensor([[[0, 1], [2, 2]]]).expand(50, 2, 2)
    samples = Samples([View(codes, 3)], torch.zeros(50).long(), fresh=True)
    text = samples.batch(torch.arange(50))[0][0].unflatten(1, (2, 3))
    assert (text.sum(-1) == 1).all()
    said = {tuple(row) for row in text.argmax(-1).tolist()}
    assert said == {(0, 1), (2, 2)}


def test_expected_text_is_read_as_whole_tokens():
    modality = Modality("text", (2, 3), ("", "red", "bird"))
    x = torch.tensor([[0.1, 0.7, 0.2, 0.0, 0.4, 0.6]])
    assert modality.hard(x).tolist() == [[0, 1, 0, 0, 0, 1]]
    assert modality.text(x[0]) == "red bird"
    truth = torch.tensor([[0.0, 1, 0, 0, 1, 0]])
    assert modality.error(x, truth).tolist() == [0.5]


def test_idx_files_are_read_as_written(tmp_path):
    values = torch.arange(24).byte().reshape(2, 3, 4)
    write_idx(tmp_path / "digits.gz", values)
    assert torch.equal(read_idx(tmp_path / "digits", "suite"), values)
    plain = gzip.decompress((tmp_path / "digits.gz").read_bytes())
    (tmp_path / "plain").write_bytes(plain)
    assert torch.equal(read_idx(tmp_path / "plain", "suite"), values)


def test_a_cut_idx_file_is_an_error(tmp_path):
    write_idx(tmp_path / "digits.gz", torch.zeros(9, 3).byte())
    cut = gzip.compress(gzip.decompress((tmp_path / "digits.gz").read_bytes())[:-1])
    (tmp_path / "digits.gz").write_bytes(cut)
    with pytest.raises(ValueError, match=r"suite: expected bytes in idx format .* Got 38 bytes"):
        read_idx(tmp_path / "digits", "suite")


def test_a_missing_file_is_named_with_what_is_there(tmp_path):
    (tmp_path / "other.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"celeba: expected images at .*other\.txt.*--data"):
        existing(tmp_path / "img" / "1.jpg", "celeba", "images")


def test_images_are_cropped_at_the_centre(tmp_path):
    image = Image.new("RGB", (178, 218), (255, 0, 0))
    image.paste((0, 0, 255), (15, 35, 163, 183))  # the 148 pixels in the middle
    image.save(tmp_path / "face.png")
    small = read_image(tmp_path / "face.png", 64, 148).reshape(64, 64, 3)
    assert (small == torch.tensor([0, 0, 255])).all()
    whole = read_image(tmp_path / "face.png", 64).reshape(64, 64, 3)
    assert whole[:, 0, 0].min() == 255
