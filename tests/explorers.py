"""Runs for tests of the explorer, of averages of weights that wander as if they had learned; and its server."""

import http.client
import json
import shutil
import threading
import time

import torch

from unitgain.checkpoint.snapshot import Snapshot, SnapshotHeader, write_snapshot
from unitgain.data.digits import digits
from unitgain.denoiser import Denoiser
from unitgain.draw import DrawSettings
from unitgain.explore.answers import Answers
from unitgain.explore.server import Server
from unitgain.explore.session import Session
from unitgain.posthoc import SnapshotStore
from unitgain.recipes import DIGITS
from unitgain.sample import Euler
from unitgain.serial import to_dict
from unitgain.train import TrainConfig
from unitgain.train.run import save_config

FAST = DrawSettings(sampler=Euler(), steps=2, dtype="auto")
EVERY, DURATION, STEP = 32, 256, 8
LEVELS = {"ln_sigma": [-2.0, 0.0, 2.0], "error": [1.0, 0.8, 0.9], "loss": [1.0, 0.8, 0.9], "images": [20, 30, 14]}


def make_runs(folder):
    """`main`, of digits with their classes, and `guide`, unconditional, whose images are the same."""
    data = digits()
    tiny = {"model_channels": 8, "channels_per_head": 8, "channel_mult": (1,), "num_blocks": 1, "attn_resolutions": ()}
    for name, classes in (("main", 10), ("guide", 0)):
        network = DIGITS.network.replace(label_dim=classes, **tiny)
        recipe = DIGITS.replace(network=network, batch=8, duration=DURATION, snapshot_every=EVERY)
        header = SnapshotHeader(
            network=network,
            sigma_data=recipe.sigma_data,
            nimg=0,
            profile={"kind": "raw"},
            recipe=recipe.name,
            encoder=to_dict(data.encoder),
            classes=data.classes if classes else None,
            data=data.name,
            label_dropout=recipe.label_dropout if classes else None,
        )
        _wander(Denoiser(network, recipe.sigma_data), folder / name / "snapshots", header)
        save_config(TrainConfig(recipe=recipe, data="digits", data_fingerprint=data.fingerprint), folder / name)
        rows = [
            {
                "nimg": nimg,
                "loss": 1.0 + 10 / nimg,
                "lr": 0.01,
                "images_per_second": 100.0,
                "seconds": 0.64,
                "nonfinite_steps": 0,
                "noise_levels": {**LEVELS, "u": [0.0, -0.1, 0.1]},
            }
            for nimg in range(64, DURATION + 1, 64)
        ]
        (folder / name / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def guiding_itself(run, folder):
    """A copy of a run that says it was trained to do without its label."""
    shutil.copytree(run, folder)
    for path in (folder / "snapshots").iterdir():
        with Snapshot(path) as snapshot:
            tensors = {name: snapshot.tensor(name) for name in snapshot.names}
            write_snapshot(path, snapshot.header.replace(label_dropout=0.1), tensors)
    return folder


def _wander(denoiser, folder, header):
    generator = torch.Generator().manual_seed(header.network.label_dim)
    store = SnapshotStore(folder, denoiser, every=EVERY, header=header)
    for t in range(STEP, DURATION + 1, STEP):
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3 if parameter.ndim else 0.1)
        store.update(t=t, dt=STEP)


class Served:
    """A server in a thread, until the context ends."""

    def __init__(self, run, guide=None, token=None, settings=FAST):
        self.answers = Answers(Session(run, guide=guide, settings=settings))
        self.server = Server(self.answers, port=0, token=token)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.answers.close()
        self.thread.join()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)

    def ask(self, path, data=None, **headers):
        """Status and body; `data` that is bytes goes as it is."""
        connection = self.connect()
        if data is None:
            connection.request("GET", path, headers=headers)
        else:
            body = data if isinstance(data, bytes) else json.dumps(data).encode()
            connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, text

    def lines(self, path, data):
        status, text = self.ask(path, data)
        assert status == 200, text
        return [json.loads(line) for line in text.splitlines()]

    def error(self, path, data):
        """The one thing that a stream says is wrong."""
        (line,) = [line for line in self.lines(path, data) if line["kind"] == "error"]
        return line["message"]

    def idle(self):
        return wait_until(lambda: not self.answers.active)


def wait_until(true, seconds=60.0):
    """Whether something comes true."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def damage(folder, pattern):
    """Change one bit of the newest snapshot of this name; returns the file, and what mends it."""
    victim = sorted(folder.glob(pattern))[-1]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
    return victim, whole
