"""MIMIC-CXR: a frontal and a lateral chest X-ray of one study, with the findings of CheXpert.

The folder is that of MIMIC-CXR-JPG 2.0: `files/p10/p10000032/s50414267/<dicom_id>.jpg` beside
`mimic-cxr-2.0.0-metadata.csv`, `-split.csv` and `-chexpert.csv` (or `.csv.gz`). The data are
credentialed: these lines were only ever run on made-up files in this layout. Every frontal image
(PA or AP) of a study is paired with every lateral one (LATERAL or LL). A finding is 1 or 0;
uncertain (-1) and unmentioned ones are left out of every score.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from benchmarks.images.data import Dataset, Modality, Samples, existing, pixels, read_image
from benchmarks.images.networks import Size
from benchmarks.images.suite import Preset, Suite, smoke

NAME = "mimic_cxr"
FRONTAL, LATERAL = ("PA", "AP"), ("LATERAL", "LL")
PARTS = ("train", "validate", "test")
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)


def _table(folder: Path, kind: str, columns: tuple[str, ...]) -> pd.DataFrame:
    path = folder / f"mimic-cxr-2.0.0-{kind}.csv"
    zipped = path.with_name(f"{path.name}.gz")
    path = zipped if zipped.exists() and not path.exists() else path
    table = pd.read_csv(existing(path, NAME, f"the official {kind} table"))
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(
            f"{NAME}: expected columns {', '.join(columns)} in {path}. Got {', '.join(table)}. "
            "Take the tables of MIMIC-CXR-JPG 2.0."
        )
    return table[list(columns)]


def pairs(folder: Path) -> pd.DataFrame:
    """One row per frontal-lateral pair of a study: dicom ids, part and findings."""
    views = _table(folder, "metadata", ("dicom_id", "subject_id", "study_id", "ViewPosition"))
    split = _table(folder, "split", ("dicom_id", "split"))
    findings = _table(folder, "chexpert", ("study_id", *FINDINGS))
    views = views.merge(split, on="dicom_id", validate="one_to_one")
    frontal = views[views.ViewPosition.isin(FRONTAL)]
    lateral = views.loc[views.ViewPosition.isin(LATERAL), ["study_id", "dicom_id"]]
    both = frontal.merge(lateral, on="study_id", suffixes=("_frontal", "_lateral"))
    return both.merge(findings, on="study_id", validate="many_to_one").sort_values(
        ["subject_id", "study_id", "dicom_id_frontal", "dicom_id_lateral"], ignore_index=True
    )


def read(folder: Path, side: int = 64) -> Dataset:
    """Grey images of `side` pixels, in the official parts."""
    folder = Path(folder)
    table = pairs(folder)

    def images(rows: pd.DataFrame, view: str) -> list[torch.Tensor]:
        found = []
        for row in rows.itertuples():
            subject = f"p{row.subject_id}"
            path = folder / "files" / subject[:3] / subject / f"s{row.study_id}"
            path = existing(path / f"{getattr(row, f'dicom_id_{view}')}.jpg", NAME, "an X-ray")
            found.append(read_image(path, side, mode="L"))
        return found

    def samples(part: str) -> Samples:
        rows = table[table.split == part]
        if rows.empty:
            raise ValueError(
                f"{NAME}: expected studies with a frontal and a lateral image in part {part!r}. "
                f"Got none in {folder}; check the metadata and split tables."
            )
        findings = rows[list(FINDINGS)].to_numpy(np.float32)
        findings = np.where(np.isin(findings, (0, 1)), findings, np.nan)
        views = [pixels(images(rows, view)) for view in ("frontal", "lateral")]
        return Samples(views, torch.from_numpy(findings))

    train, validation, test = (samples(part) for part in PARTS)
    return Dataset(
        tuple(Modality(view, (side, side, 1)) for view in ("frontal", "lateral")),
        FINDINGS,
        exclusive=False,
        train=train,
        validation=validation,
        test=test,
    )


def write_tiny(folder: Path) -> None:
    """Flat images, bright where there is a pneumonia, in the official layout."""
    random = np.random.default_rng(0)
    views, split, findings = [], [], []
    for k in range(40):
        subject, study = 10000000 + k // 2, 50000000 + k
        ill = random.integers(0, 2)
        row = dict.fromkeys(FINDINGS, np.nan) | {"Pneumonia": float(ill), "Edema": -1.0}
        findings.append({"subject_id": subject, "study_id": study, **row})
        part = PARTS[0 if k < 20 else 1 if k < 30 else 2]
        for view in (("PA", "AP")[k % 2], ("LATERAL", "LL")[k % 2]):
            name = f"{study}-{view.lower()}"
            place = folder / f"files/p10/p{subject}/s{study}"
            place.mkdir(parents=True, exist_ok=True)
            image = random.integers(0, 60, (70, 80)) + 150 * ill
            Image.fromarray(image.astype(np.uint8)).save(place / f"{name}.jpg")
            where = {"dicom_id": name, "subject_id": subject, "study_id": study}
            views.append({**where, "ViewPosition": view})
            split.append({**where, "split": part})
    for kind, rows in (("metadata", views), ("split", split), ("chexpert", findings)):
        pd.DataFrame(rows).to_csv(folder / f"mimic-cxr-2.0.0-{kind}.csv", index=False)


SUITE = Suite(
    name=NAME,
    metric="auroc",
    presets={
        "smoke": smoke(4),
        "small": Preset(
            latent_dim=64,
            epochs=5,
            lr=1e-3,
            betas=(0.3, 1.0),
            precision="bf16",
            size=Size(16, 64, 4, 4, branch=1.0),
            classifier=Size(16, 64, 4, 4),
            classifier_epochs=3,
            batch_size=64,
            n_probe=4000,
        ),
        "paper": Preset(
            latent_dim=128,
            epochs=250,
            lr=5e-4,
            betas=tuple(2.0**k for k in range(-8, 4)),
            precision="bf16",
            size=Size(64, 512, 7, 1),
            classifier=Size(32, 128, 7, 1),
            classifier_epochs=20,
            arguments={"side": 224},
        ),
    },
    read=read,
    write_tiny=write_tiny,
)
