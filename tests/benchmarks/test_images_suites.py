import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks.images.data import Modality
from benchmarks.images.suite import load, names
from benchmarks.images.suites import celeba, cub, mimic_cxr, polymnist
from PIL import Image
from torch.nn.functional import one_hot


@pytest.fixture
def tiny(tmp_path):
    """Made-up files of a suite in its official layout."""

    def write(name):
        load(name).write_tiny(tmp_path)
        return tmp_path

    return write


def arguments(name):
    return load(name).presets["smoke"].arguments


@pytest.mark.parametrize("name", names())
def test_parts_share_no_sample_and_fit_their_modalities(name, tiny):
    data = load(name).read(tiny(name), **arguments(name))
    for part in (data.train, data.validation, data.test):
        x, observed = part.batch(torch.arange(len(part)))
        assert observed.all()
        for modality, values in zip(data.modalities, x, strict=True):
            assert values.shape == (len(part), torch.Size(modality.shape).numel())
            assert 0 <= values.min() < values.max() <= 1
    for m in range(len(data.modalities)):
        parts = [getattr(data, part).views[m].values[:, 0] for part in ("train", "validation")]
        shown = [{bytes(row.numpy().tobytes()) for row in part} for part in parts]
        if data.modalities[m].alphabet is None:
            assert not shown[0] & shown[1]


@pytest.mark.parametrize("name", names())
def test_missing_files_are_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{name}: expected .*holds nothing.*--data"):
        load(name).read(tmp_path, **arguments(name))


# ---------------------------------------------------------------------- PolyMNIST


def test_digits_are_three_quarters_large_and_stay_inside():
    full = torch.full((300, 28, 28), 255).byte()
    black = torch.zeros(40, 40, 3)
    for shift in (1, 4):
        images = polymnist.compose(full, black, shift, torch.Generator().manual_seed(0))
        assert (images.sum((1, 2, 3)) == 255 * 3 * 21 * 21).all()
        first_row = (images[..., 0].amax(2) > 0).float().argmax(1)
        assert first_row.min() == max(3 - shift, 0)
        assert first_row.max() == min(3 + shift, 7)


def test_backgrounds_are_inverted_where_the_digit_is():
    digit = torch.zeros(1, 28, 28).byte()
    digit[:, 8:20, 8:20] = 255
    grey = torch.full((28, 28, 3), 0.2)
    image = polymnist.compose(digit, grey, 0, torch.Generator())[0]
    assert image.amin() == 51
    assert image.amax() == 204


@pytest.mark.parametrize("modality", range(5))
def test_digits_stand_out_from_procedural_backgrounds(modality):
    texture = polymnist.procedural_background(modality)
    assert (texture - 0.5).abs().min() > 0.04


def test_published_folders_are_read_in_the_order_of_their_numbers(tmp_path):
    digits = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
    for part in ("train", "test"):
        for m in range(2):
            folder = tmp_path / part / f"m{m}"
            folder.mkdir(parents=True)
            for i, digit in enumerate(digits):
                colour = (10 * digit, 20 * i, m)
                Image.new("RGB", (28, 28), colour).save(folder / f"{i}.{digit}.png")
    data = polymnist.read(tmp_path, n_modalities=2, n_validation=2)
    assert data.test.labels.tolist() == digits
    x, _ = data.test.batch(torch.arange(12))
    first = (255 * torch.stack(x)[..., :3]).round().long()
    # What has one number belongs together, though other images show the same digit.
    assert first[0, :, 1].tolist() == first[1, :, 1].tolist() == [20 * i for i in range(12)]
    (tmp_path / "train/m1/11.8.png").rename(tmp_path / "train/m1/11.7.png")
    with pytest.raises(ValueError, match="same numbers and digits"):
        polymnist.read(tmp_path, n_modalities=2, n_validation=2)


def test_too_few_backgrounds_are_an_error(tiny):
    folder = tiny("polymnist")
    (folder / "scenes").mkdir()
    with pytest.raises(ValueError, match="expected 3 background images"):
        polymnist.read(folder, n_modalities=3, backgrounds=folder / "scenes")


# ---------------------------------------------------------------------- MNIST and SVHN


def test_the_ten_of_svhn_is_a_zero(tiny):
    data = load("mnist_svhn").read(tiny("mnist_svhn"), n_validation=60)
    assert [part.unique().tolist() for part in data.test.classes] == [list(range(10))] * 2


# ---------------------------------------------------------------------- CelebA


def test_texts_name_present_attributes_from_any_position():
    names = ["5_o_Clock_Shadow", "Bald", "Big_Nose"]
    text = celeba.describe(names, torch.tensor([1.0, 0, 1]))
    assert text == "5 o clock shadow, big nose"
    modality = Modality("text", (celeba.LENGTH, len(celeba.ALPHABET)), tuple(celeba.ALPHABET))
    for start in (0, 100, 230):
        codes = celeba.encode(text, start)
        said = modality.text(one_hot(codes.long(), len(celeba.ALPHABET)).flatten())
        assert len(said) == 256
        assert said[start : start + len(text)] == text
        assert set(said[:start] + said[start + len(text) :]) <= {"*"}


def test_faces_listed_but_absent_are_left_out(tiny):
    folder = tiny("celeba")
    before = load("celeba").read(folder, validation=0.2, test=0.2)
    (folder / "img_align_celeba/000001.jpg").unlink()
    after = load("celeba").read(folder, validation=0.2, test=0.2)
    assert len(after.train) == len(before.train) - 1
    assert torch.equal(after.test.labels, before.test.labels)


def test_official_partition_decides_where_it_is_given(tiny):
    folder = tiny("celeba")
    parts = [(1, 1), (2, 2), (3, 1)] + [(k, 0) for k in range(4, 25)]
    lines = [f"{k:06d}.jpg {part}" for k, part in parts]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines))
    data = load("celeba").read(folder)
    assert [len(data.train), len(data.validation), len(data.test)] == [21, 2, 1]


def test_a_broken_attribute_line_is_quoted(tiny):
    path = tiny("celeba") / "list_attr_celeba.txt"
    path.write_text(path.read_text() + "000025.jpg 1\n")
    with pytest.raises(ValueError, match=r"2 values of 1 or -1 .* '000025\.jpg 1'"):
        celeba.read(path.parent)


# ---------------------------------------------------------------------- CUB


def test_vocabulary_is_of_training_captions_alone(tiny):
    folder = tiny("cub")
    for line in (folder / "CUB_200_2011/train_test_split.txt").read_text().splitlines():
        number, training = line.split()
        path = next((folder / "text").glob(f"*/Bird_{int(number):04d}.txt"))
        word = "albatross" if int(training) else "penguin"
        path.write_text(path.read_text().replace("bird", word))
    data = cub.read(folder, validation=0.2)
    alphabet = data.modalities[1].alphabet
    assert "albatross" in alphabet
    assert "penguin" not in alphabet
    x, _ = data.test.batch(torch.arange(1))
    said = data.modalities[1].text(x[1][0]).split()
    assert said[:3] == ["this", "is", "a"]
    assert said[-1] == cub.UNKNOWN


def test_captions_are_cut_at_32_words():
    code = {word: k for k, word in enumerate(cub.vocabulary_of([["a bird, " * 20]], 1))}
    assert (cub.encode(["A bird. " * 20], code) > 1).all()
    assert cub.encode(["A bird."], code)[0].count_nonzero() == 2


def test_colours_of_images_go_before_those_of_classes(tiny):
    folder = tiny("cub")
    of_classes = cub.read(folder, validation=0.2).test.labels
    kinds = of_classes[:, [list(cub.GROUPS).index(name) for name in ("black", "yellow")]]
    assert (kinds.sum(1) == 1).all()
    assert of_classes.sum() == len(of_classes)
    red = cub.FIRST_COLOUR + cub.COLOURS.index("red")
    path = folder / "CUB_200_2011/attributes/image_attribute_labels.txt"
    path.parent.mkdir()
    path.write_text("".join(f"{k} {red} 1 3 1.5\n" for k in range(1, 25)))
    of_images = cub.read(folder, validation=0.2).test.labels
    assert of_images[:, 0].all()
    assert of_images[:, 1:].sum() == 0


def test_an_image_without_ten_captions_is_an_error(tiny):
    folder = tiny("cub")
    path = next((folder / "text").glob("*/*.txt"))
    path.write_text("one bird\n")
    with pytest.raises(ValueError, match="expected ten captions"):
        cub.read(folder)


# ---------------------------------------------------------------------- MIMIC-CXR


def test_every_frontal_image_meets_every_lateral_one_of_its_study(tiny):
    folder = tiny("mimic_cxr")
    before = mimic_cxr.pairs(folder)
    path = folder / "mimic-cxr-2.0.0-metadata.csv"
    views = pd.read_csv(path)
    first = views.index[views.ViewPosition == "PA"][0]
    views.loc[first, "ViewPosition"] = "LL"  # now its study has no frontal image
    views.to_csv(path, index=False)
    after = mimic_cxr.pairs(folder)
    assert len(after) == len(before) - 1
    assert views.loc[first, "study_id"] not in set(after.study_id)


def test_uncertain_and_unmentioned_findings_are_unknown(tiny):
    data = mimic_cxr.read(tiny("mimic_cxr"))
    labels = {name: data.test.labels[:, k] for k, name in enumerate(data.labels)}
    assert set(labels["Pneumonia"].tolist()) == {0, 1}
    assert labels["Edema"].isnan().all()  # written as -1
    assert labels["Fracture"].isnan().all()  # left blank


def test_tables_without_their_columns_are_an_error(tiny):
    folder = tiny("mimic_cxr")
    path = folder / "mimic-cxr-2.0.0-chexpert.csv"
    pd.read_csv(path).drop(columns="Edema").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"expected columns study_id, .*Edema"):
        mimic_cxr.read(folder)


def test_zipped_tables_are_read(tiny):
    folder = tiny("mimic_cxr")
    expected = mimic_cxr.pairs(folder)
    for path in list(folder.glob("*.csv")):
        pd.read_csv(path).to_csv(f"{path}.gz", index=False)
        path.unlink()
    pd.testing.assert_frame_equal(mimic_cxr.pairs(folder), expected)


# ---------------------------------------------------------------------- real files


@pytest.mark.data
def test_real_mnist_gives_all_digits_in_all_modalities(data_dir):
    data = polymnist.read(
        data_dir / "mnist", n_modalities=3, n_train=500, n_validation=300, n_test=300
    )
    assert [len(data.train), len(data.validation), len(data.test)] == [500, 300, 300]
    assert data.train.labels.unique().tolist() == list(range(10))


@pytest.mark.data
def test_real_birds_come_with_ten_captions(data_dir):
    folder = data_dir / "cub"
    data = cub.read(folder)
    lines = (folder / "CUB_200_2011/images.txt").read_text().splitlines()
    assert len(data.train) + len(data.validation) + len(data.test) == len(lines)
    assert data.train.views[1].values.shape[1:] == (10, 32)
    # The first ten classes are albatrosses, auklets, blackbirds and an ani: nothing red or yellow.
    shares = dict(zip(data.labels, data.train.labels.mean(0).tolist(), strict=True))
    assert shares["black"] > 0.5
    assert shares["yellow"] == shares["blue2red"] == 0


@pytest.mark.data
def test_real_faces_are_read_with_their_attributes(data_dir):
    data = celeba.read(data_dir / "celeba", starts=1)
    assert len(data.labels) == 40
    n_samples = sum(len(part) for part in (data.train, data.validation, data.test))
    assert n_samples == 32
    x, _ = data.train.batch(torch.arange(1))
    said = data.modalities[1].text(x[1][0]).strip("*").split(", ")
    names = [name.replace("_", " ").lower() for name in data.labels]
    present = np.flatnonzero(data.train.labels[0])
    assert said == [names[k] for k in present]


def test_an_unknown_suite_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"one of \['celeba'.*Got 'imagenet'"):
        load("imagenet")
