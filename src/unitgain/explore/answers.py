"""What the page of the explorer asks for, as JSON: no web in here, but what is said over it."""

import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from unitgain.data.images import to_image
from unitgain.draw.animation import save_path
from unitgain.draw.networks import SELF
from unitgain.draw.settings import Animation
from unitgain.ema import PowerProfile
from unitgain.explore.jobs import Jobs, Report
from unitgain.explore.measure import METRIC, measure, measured
from unitgain.explore.requests import Ends, Measurement, view_from_json, view_to_json
from unitgain.explore.session import Event, Picture, Reading, Session
from unitgain.explore.sources import Run
from unitgain.explore.takeaway import card, images_png, python, shell
from unitgain.explore.views import View
from unitgain.posthoc.planning import UNREACHABLE
from unitgain.posthoc.solve import WARN_ABOVE
from unitgain.report.curves import by_bucket, noise_levels, over_training
from unitgain.report.history import History, read_history
from unitgain.report.page import data_uri
from unitgain.sample.samplers import SAMPLERS
from unitgain.serial import from_dict
from unitgain.text import printable

LENGTHS = tuple(round(0.005 * k, 3) for k in range(1, 58))  # where the error of the fit is told
PAUSE = 0.08  # seconds between previews, at least; and ten times what the last one took
LEAST = 1e-6  # of the largest weight, from which a snapshot is named among those that make an average
MOST_CLASSES = 10_000  # whose names are told

Line = Mapping[str, Any]


class Answers:
    """The questions of a page, answered from a session; from any number of threads at once.

    Args:
        session: that is looked at.
        start: what is shown first; by default what the session begins with.
    """

    def __init__(self, session: Session, start: View | None = None) -> None:
        self.session, self._start = session, start
        self._measuring, self._writing = Jobs("unitgain-measure"), Jobs("unitgain-write")
        self._plots = threading.Lock()  # matplotlib draws one at a time

    @property
    def active(self) -> int:
        """What is under way."""
        return self.session.active + self._measuring.active + self._writing.active

    def close(self) -> None:
        """Give up what is under way."""
        self._measuring.close()
        self._writing.close()
        self.session.close()

    def about(self) -> Line:
        """What there is to choose from."""
        session = self.session
        classes = session.classes
        names = [self._class(number) for number in range(min(classes.count or 0, MOST_CLASSES))]
        return {
            "title": printable(session.source.title),
            "name": printable(session.source.name),
            "recipe": printable(session.recipe),
            "classes": names,
            "size": list(session.spec.size),
            "run": isinstance(session.source, Run),
            "guides": [
                {"name": name, "shown": _shown(session, name), "run": isinstance(source, Run)}
                for name, source in session.guides.items()
            ],
            "samplers": {name: kind().to_json() for name, kind in SAMPLERS.items()},
            "warn_above": WARN_ABOVE,
            "unreachable": UNREACHABLE,
            "metric": METRIC,
            "view": view_to_json(session.check(self._start or session.start())),
            **self.live(),
        }

    def live(self) -> Line:
        """What may have changed since: the times of snapshots, of the run and of guides."""
        session = self.session
        sources = {"": session.source} | {name: one for name, one in session.guides.items() if one is not None}
        return {"times": {name: source.times() for name, source in sources.items() if isinstance(source, Run)}}

    def errors(self, data: object) -> Line:
        """Relative errors of the fit over lengths, of the averages that end at a time."""
        asked = from_dict(Ends, data, "question")
        source = self.session.source if asked.guide is None else self.session.guides.get(asked.guide)
        if not isinstance(source, Run):
            return {"lengths": [], "errors": []}
        return {"lengths": LENGTHS, "errors": [min(error, 9.0) for error in source.errors(LENGTHS, asked.t)]}

    def draw(self, data: object) -> Iterator[Line | None]:
        """A view: what happens on the way, images as they are finished, and in the end what was drawn."""
        view = self.session.check(self._view(data))
        yield {"kind": "view", "view": view_to_json(view), **self._fits(view)}
        yield from self._told(view, self.session.draw(view))
        yield {"kind": "done"}

    def path(self, data: object) -> Iterator[Line | None]:
        """The way of a view's images out of noise, a line per noise level."""
        view = self.session.check(self._view(data))
        previews = yield from self._told(view, self.session.path(view))
        for preview in previews:
            yield {
                "kind": "frame",
                "sigma": preview.step.sigma,
                "x": [data_uri(to_image(one)) for one in preview.noisy()],
                "denoised": [data_uri(to_image(one)) for one in preview.denoised()],
            }
        yield {"kind": "done"}

    def measure(self, data: object) -> Iterator[Line | None]:
        """Measure a view: how far that is, and in the end the cells."""
        asked = from_dict(Measurement, data, "measurement")
        view = self.session.check(self._view(asked.view))

        def work(report: Report) -> list[dict[str, Any]]:
            return measure(self.session, view, metric=asked.metric, images=asked.images, on_images=report)

        steps = self._measuring.follow((view, asked.metric, asked.images), work)
        cells = yield from _mapped(steps, lambda done: {"kind": "measuring", "done": done, "total": asked.images})
        yield {"kind": "cells", "cells": cells}

    def cells(self) -> Line:
        """The finished cells of the run."""
        return {"cells": measured(self.session)}

    def take(self, data: object) -> Line:
        """The command line and the program of a view."""
        view = self._view(data)
        return {"shell": shell(self.session, view), "python": python(self.session, view)}

    def profile(self, data: object) -> Line:
        """The averaging profile of a view's average, with the snapshots that make it, as SVG (EDM2, Fig. 4)."""
        from unitgain.figures import svg
        from unitgain.posthoc.plot import profiles_figure

        view = self.session.check(self._view(data))
        if not isinstance(self.session.source, Run):
            raise ValueError("a network as it is has no averages to choose from: open the folder of a run")
        planned = self.session.source.plan(view.average)
        assert view.average.t is not None and view.average.length is not None
        target = PowerProfile.of(view.average.t, view.average.length)
        weights = planned.weights.matrix[:, 0].tolist()
        least = LEAST * max(map(abs, weights))
        about = [
            {"file": printable(source.path.name), "weight": weight}
            for source, weight in zip(planned.sources, weights, strict=True)
            if abs(weight) >= least
        ]
        with self._plots:
            shown = svg(profiles_figure(planned.weights, [target]))
        return {"svg": shown, "snapshots": about, **self._fits(view)}

    def history(self) -> Line:
        """The loss of the run, its denoising error by noise level with u(sigma), and magnitudes where it has some."""
        if not isinstance(self.session.source, Run):
            return {"plots": []}
        with self._plots:
            return {"plots": _plots(read_history(self.session.source.folder))}

    def grid(self, data: object) -> Generator[Line | None, None, bytes]:
        """The images of a view in one PNG."""
        return images_png((yield from self._pictures(self._view(data))))

    def card(self, data: object) -> Generator[Line | None, None, bytes]:
        """A model card with the images of a view, as a zip."""
        view = self._view(data)
        return card(self.session, view, (yield from self._pictures(view)))

    def snapshot(self, data: object) -> Generator[Line | None, None, bytes]:
        """The average of a view as a snapshot."""
        view = self.session.check(self._view(data))
        source = self.session.source
        if not isinstance(source, Run):
            raise ValueError(f"{source.name} is one network: its snapshot is there")

        def work(report: Report) -> bytes:
            with tempfile.TemporaryDirectory(prefix="unitgain-") as folder:
                return source.write(view.average, Path(folder), lambda *read: report(read)).read_bytes()

        return (yield from _mapped(self._writing.follow(source.key(view.average), work), lambda _: None))

    def gif(self, data: object) -> Generator[Line | None, None, bytes]:
        """The way of a view's images out of noise as a GIF."""
        view = self.session.check(self._view(data))
        previews = yield from _mapped(self.session.path(view), lambda _: None)
        end = torch.stack([picture.pixels for picture in (yield from self._pictures(view))])
        with tempfile.TemporaryDirectory(prefix="unitgain-") as folder:
            path = Path(folder) / "path.gif"
            noisy, denoised = [one.noisy() for one in previews], [one.denoised() for one in previews]
            save_path([*noisy, end], [*denoised, end], path, Animation())
            return path.read_bytes()

    def _pictures(self, view: View) -> Generator[Line | None, None, list[Picture]]:
        """The images of a view, in the order of its seeds."""
        found: dict[int, Picture] = {}

        def keep(event: Event) -> None:
            if isinstance(event, Picture):
                found[event.seed] = event

        yield from _mapped(self.session.draw(view), keep)
        return [found[seed] for seed in view.seeds]

    def _view(self, data: object) -> View:
        view = view_from_json(data, self.session.settings)
        label = view.settings.label
        return view.with_settings(label=self.session.classes.parse(label)) if isinstance(label, str) else view

    def _class(self, number: int) -> str:
        """What a class is called on the page and found by: its name if all of it is shown and no other has it."""
        return self.session.classes.spelled(number, self.session.classes.label(number))

    def _fits(self, view: View) -> Line:
        guide = None if view.guide in (None, SELF) else self.session.fit(view.guide_average, view.guide)
        return {"fit": self.session.fit(view.average), "guide_fit": guide}

    def _told(self, view: View, events: Generator[Event, None, Any]) -> Generator[Line | None, None, Any]:
        """Events as lines: not every preview, for they cost time too."""
        due = 0.0

        def line(event: Event) -> Line | None:
            nonlocal due
            if isinstance(event, Reading):
                return {"kind": "reading", "done": event.done, "total": event.total}
            if isinstance(event, Picture):
                name = None if event.label is None else self.session.classes.label(event.label)
                src = data_uri(to_image(event.pixels))
                return {"kind": "picture", "seed": event.seed, "label": event.label, "name": name, "src": src}
            if event is None or (began := time.monotonic()) < due:
                return None
            step, pixels = event.step, event.denoised()
            images = {int(seed): data_uri(to_image(one)) for seed, one in zip(step.seeds, pixels, strict=True)}  # type: ignore[arg-type]
            due = time.monotonic() + max(PAUSE, 10 * (time.monotonic() - began))
            return {
                "kind": "preview",
                "number": step.number,
                "of": step.evaluations,
                "sigma": step.sigma,
                "images": images,
            }

        return (yield from _mapped(events, line))


def _mapped(steps: Generator[Any, None, Any], line: Callable[[Any], Line | None]) -> Generator[Line | None, None, Any]:
    """The same, each as a line; None stays."""
    try:
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                return end.value
            yield None if event is None else line(event)
    finally:
        steps.close()


def _plots(history: History) -> list[Line]:
    """The plots of a run, as far as it has what they show."""
    plots = []
    nimg, loss = history.series("loss")
    if loss:
        plots.append({"title": "Loss", "svg": over_training(nimg, loss, "loss", robust=True)})
    if any("noise_levels" in row for row in history.ticks):
        title = "Denoising error by noise level; dashed: learned exp u(sigma)"
        plots.append({"title": title, "svg": noise_levels(history.ticks)})
    if history.magnitudes:
        title = "Root mean square of activations"
        plots.append({"title": title, "svg": by_bucket(history.magnitudes, "activation_mean", "activations")})
    return plots


def _shown(session: Session, name: str) -> str:
    """What a guide is called on the page."""
    if name == SELF:
        return "the network without its label"
    if name == session.source.name:
        return "another average of this run"
    return printable(Path(name).name or name)
