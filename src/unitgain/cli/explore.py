"""`unitgain explore`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unitgain.cli.arguments import Device, Unset, parse_seeds, pick_device, refuse_idle
from unitgain.cli.drawing import Drawing
from unitgain.console import bar, say
from unitgain.files import write_text
from unitgain.sweep.cells import NUMBERS

if TYPE_CHECKING:
    from unitgain.explore.session import Session
    from unitgain.explore.views import View

UNGUIDED = "for a page that begins guided; say how much, as in --guidance 1.5, or choose it on the page"


@dataclass(frozen=True)
class Explore(Drawing):
    """Look at what a run draws with averages of any length, in the browser; or write a page to send to others.

    Averages are reconstructed in memory, as the slider moves. The page is served to this machine alone until Ctrl-C,
    and takes nothing from elsewhere. --export writes one HTML file instead that needs no server, runs no script, and
    has images of all --lengths, --weights and --seeds with bars to choose among them.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run; or a network, which has no averages to choose from: a snapshot, a preset, or a repository of the
    Hugging Face Hub."""

    export: Unset[Path] = None
    """File to write a page to that needs no server, such as explore.html."""

    host: str = "127.0.0.1"
    """Address to serve the page at. Others than those of this machine ask for a token, which is part of what is
    printed."""

    port: int = 7860
    """Port of the page; 0 for any that is free."""

    token: Unset[str] = None
    """What whoever opens the page must know. Default: none on this machine, else one that is made up."""

    nimg: Unset[float] = None
    """Where the averages end, in images seen. Default: at the last snapshot."""

    guide_length: Unset[float] = None
    """EMA length of the guide, where that is a run; without --export with --guidance. Default: the longest that it
    stores."""

    guide_nimg: Unset[float] = None
    """Where the average of the guide ends; likewise. Default: at its last snapshot."""

    lengths: Annotated[tuple[float, ...], NUMBERS] = ()
    """EMA lengths of the page: a list 0.05,0.1 or a range 0.02:0.2:0.02. Default: those of 0.02 to 0.25 that the run
    allows with a small error."""

    weights: Annotated[tuple[float, ...], NUMBERS] = (1.0,)
    """Weights of guidance of the page, in the same form; others than 1 need a --guide."""

    seeds: str = "0-23"
    """Seeds of the page, eight to a picture."""

    device: Device = "auto"
    """Where to draw."""

    def run(self) -> None:
        """Serve the page until interrupted, or write it."""
        from unitgain.explore.session import Session

        self._check()
        with Session(self.source, guide=self.guide, device=pick_device(self.device), settings=self.settings) as session:
            if self.export is None:
                self._serve(session)
            else:
                self._export(session, self._view(session), self.export)

    def _check(self) -> None:
        """Refuse what has no say in what is to be done."""
        from unitgain.report.known import is_run

        if self.export is None:
            refuse_idle(
                self, ["lengths", "weights", "seeds"], "for a page that is written; name its file: --export FILE"
            )
        else:
            if self.export.is_dir():
                example = self.export / "explore.html"
                raise ValueError(f"--export {self.export} is a folder: name a file, such as {example}")
            if self.guidance is not None:
                raise ValueError(f"--guidance {self.guidance:g}: the weights of a page are --weights {self.guidance:g}")
            refuse_idle(self, ["host", "port", "token"], f"for a page that is served; {self.export} is written")
        if self.guide is None or not is_run(Path(self.guide)):
            refuse_idle(self, ["guide_length", "guide_nimg"], "for a --guide that is the folder of a run")
        if self.export is None and self.guidance in (None, 1):
            refuse_idle(self, ["guide_length", "guide_nimg"], UNGUIDED)

    def _serve(self, session: "Session") -> None:
        from unitgain.explore.answers import Answers
        from unitgain.explore.server import LOCAL, Server, new_token

        token = self.token or (None if self.host in LOCAL else new_token())
        said = self.guide is not None or self.guidance is not None
        start = (session.check if said else session.start)(self._view(session))
        if self.settings.interval is not None and not start.guided:
            raise ValueError(f"--interval: {UNGUIDED}")
        answers = Answers(session, start)
        with Server(answers, self.host, self.port, token) as server:
            say(f"look at {server.url}\nCtrl-C ends it")
            try:
                server.serve_forever()
            finally:
                answers.close()

    def _view(self, session: "Session") -> "View":
        """What is given of all pictures."""
        from unitgain.explore.views import Average, View

        weight = 1.0 if self.guidance is None else self.guidance
        settings = self.settings.replace(label=self.label(session.classes), guidance=weight)
        own = Average(length=self.guide_length, t=self.guide_nimg)
        return View(average=Average(t=self.nimg), guide=self.guide, guide_average=own, settings=settings)

    def _export(self, session: "Session", view: "View", out: Path) -> None:
        from unitgain.explore.export import ExportConfig, export_page

        config = ExportConfig(
            lengths=self.lengths, weights=self.weights, seeds=tuple(parse_seeds(self.seeds)), view=view
        )
        with bar("drawing", "images") as progress:
            write_text(out, export_page(session, config, on_images=progress))
        say(f"look at {out}")
