"""What latents of the stretch before the event tell of the condition: nothing, if all is well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from neuroshare.analysis.separation import separation
from neuroshare.report.rendering import number
from neuroshare.workflow.analyses.base import Analysis, levels, mean_accuracy

if TYPE_CHECKING:
    from neuroshare.workflow.finished import FinishedRun
    from neuroshare.workflow.fitted import Fitted


class Control(Analysis):
    """Separation by the latents of the stretch before the event, where there are spikes in it."""

    name = "control"

    def compute(self, fitted: Fitted) -> xr.Dataset | None:  # noqa: D102
        if fitted.before is None:
            return None
        before = [part.over(fitted.before) for part in (fitted.train, fitted.test)]
        train, test = map(fitted.model.transform, before)
        found = separation(train, test, by=fitted.config.factor, **fitted.tests)
        n_all, n = (
            {name: sum(part.n_trials(name) for part in parts) for name in fitted.train.subjects}
            for parts in ((fitted.train, fitted.test), before)
        )
        gone = [f"{n_all[name] - n[name]} of {name}" for name in n if n[name] < n_all[name]]
        return found.assign_attrs(unobserved=", ".join(gone))

    def summary(self, found: xr.Dataset | None) -> dict[str, Any]:  # noqa: D102
        return {self.name: None if found is None else levels(found)}

    def notes(self, run: FinishedRun) -> list[str]:  # noqa: D102
        if run.config.quick:
            return ["A quick run: no stretch before the event was scored as a control."]
        control = run.scores.get(self.name)
        if not control:
            return [
                "There is no control before the event: in at least one subject the recording holds "
                "no spikes in the stretch of the same length before it, or was off in part of it, "
                "and neither is a control."
            ]
        at, found = control["trial"], run.found.get(self.name)
        gone = "" if found is None else str(found.attrs.get("unobserved", ""))
        return [
            "Control: the latents of a stretch of the same length before the event give "
            f"{mean_accuracy(at, 'own')} own and {mean_accuracy(at, 'cross')} cross per trial; "
            f"chance is {number(run.scores['chance'])}. Anything clearly above it would be "
            "information that was there before the event, or a leak."
            + (f" Trials that were not observed then are left out: {gone}." if gone else "")
        ]
