"""What a run says of the choice of its model, against the table that it was made of."""

from types import SimpleNamespace

import pandas as pd
import pytest

from neuroshare.workflow.analyses.choice import Choice, sentence

COLUMNS = ["stage", "init", "latent_dim", "inputs", "steps", "score", "standard_error", "own",
           "cross", "chosen"]  # fmt: skip
STARTS = [
    ("start", "mcca", 4, "pooled", 0, 0.60, 0.02, 0.62, 0.58, False),
    ("start", "mcca", 6, 2, 0, 0.65, 0.02, 0.66, 0.64, True),
]


def run_of(chosen, training=()):
    table = pd.DataFrame([*STARTS, *training] if chosen else [], columns=COLUMNS)
    model = SimpleNamespace(selection_=table, chosen_=chosen, latent_dim_=6)
    found = Choice().compute(SimpleNamespace(model=model))
    return SimpleNamespace(found={"choice": found}, scores=Choice().summary(found))


def training(taken):
    return [
        ("training", "mcca", 6, 2, 0, 0.65, 0.02, 0.66, 0.64, taken == 0),
        ("training", "mcca", 6, 2, 50, 0.71, 0.02, 0.72, 0.70, taken == 50),
        ("training", "mcca", 6, 2, 100, 0.68, 0.02, 0.69, 0.67, False),
    ]


CHOSEN = {"latent_dim": 6, "inputs": 2, "init": "mcca"}


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            run_of({**CHOSEN, "steps": 50}, training(50)),
            "Chosen on trials held out of the training part: 6 latents, activity in 2 parts of the "
            "window, 50 training steps from the aligned start. Held-out accuracy before training: "
            "own 0.66, cross 0.64; after: own 0.72, cross 0.70.",
        ),
        (
            run_of({**CHOSEN, "steps": 0}, training(0)),
            "Chosen on trials held out of the training part: 6 latents, activity in 2 parts of the "
            "window, the aligned start as it is. Training was tried for up to 100 steps and not "
            "taken: own 0.66, cross 0.64 before, own 0.72, cross 0.70 at its best.",
        ),
        (
            run_of(CHOSEN),
            "Chosen on trials held out of the training part: 6 latents, activity in 2 parts of the "
            "window.",
        ),
        (
            run_of({"why_not": "there is one condition of odor"}),
            "Nothing could be chosen on held-out trials, for there is one condition of odor.",
        ),
        (run_of({}), ""),
    ],
)
def test_the_sentence_says_what_the_table_holds(run, words):
    assert sentence(run) == words


def test_the_section_shows_the_best_first_and_what_was_taken():
    section = Choice().section(run_of({**CHOSEN, "steps": 50}, training(50)))
    assert [row[1] for row in section.table.rows] == ["6", "4", "6", "6", "6"]
    assert [row[-1] for row in section.table.rows] == ["yes", "", "", "yes", ""]
    assert section.table.rows[0][6] == "0.650 ± 0.020"
    assert Choice().section(run_of({})) is None
