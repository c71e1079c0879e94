"""Hooks for Lightning, Accelerate and the Hugging Face Trainer: their averages against ones tracked by hand."""

import accelerate
import lightning.pytorch as pl
import pytest
import torch
import transformers
from torch import nn

from unitgain.checkpoint.snapshot import list_snapshots
from unitgain.ema import PowerEMA
from unitgain.hooks import accelerate as accelerate_hook
from unitgain.hooks import lightning as lightning_hook
from unitgain.hooks import transformers as transformers_hook

STEPS, EVERY = 12, 3
DATA = torch.randn(STEPS * 2, 5, generator=torch.Generator().manual_seed(3))


def make_model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 5))


def by_hand():
    """Plain training on pairs of samples, and the averages that every hook must give."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    emas = [PowerEMA(model, length) for length in (0.05, 0.10)]
    for step in range(STEPS):
        (model(DATA[2 * step : 2 * step + 2]) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        for ema in emas:
            ema.update(step + 1, 1)
    return emas


def check(store, prefix=""):
    expected = by_hand()
    assert store.t == STEPS
    for ema, reference in zip(store.emas, expected, strict=True):
        for name, tensor in reference.tensors().items():
            torch.testing.assert_close(ema.tensors()[prefix + name], tensor, rtol=1e-5, atol=1e-7)
    assert sorted({average.t for average in list_snapshots(store.folder)}) == [3, 6, 9, 12]


class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = make_model()

    def training_step(self, batch, index):
        return (self.model(batch) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def lightning_trainer(path, callback, **options):
    return pl.Trainer(
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=path,
        **options,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning(tmp_path, accumulate):
    hook = lightning_hook.PostHocEMA(tmp_path / "ema", every=EVERY, dtype="float32")
    loader = torch.utils.data.DataLoader(DATA, batch_size=2 // accumulate)
    trainer = lightning_trainer(tmp_path, hook, max_epochs=1, accumulate_grad_batches=accumulate)
    trainer.fit(Lit(), loader)
    check(hook.store, "model.")


@pytest.mark.filterwarnings("ignore")
def test_hooks_take_the_options_of_a_store(tmp_path):
    hook = lightning_hook.PostHocEMA(tmp_path / "ema", every=100, update_every=5, buffers="copy", device="cpu")
    module = Lit()
    module.model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 5))
    trainer = lightning_trainer(tmp_path, hook, max_epochs=1)
    trainer.fit(module, torch.utils.data.DataLoader(DATA, batch_size=2))
    assert hook.store.update_every == 5
    assert {average.t for average in list_snapshots(tmp_path / "ema")} == {STEPS}  # at the end, sooner than `every`
    assert "model.1.running_mean" in hook.store.emas[0].buffers
    before = module.model[0].weight.clone()
    with hook.store.switch(0.10) as inside:
        assert inside is module and not torch.equal(module.model[0].weight, before)
    assert torch.equal(module.model[0].weight, before)


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_and_refuses_a_checkpoint_without_averages(tmp_path):
    loader = torch.utils.data.DataLoader(DATA, batch_size=2)
    first = lightning_hook.PostHocEMA(tmp_path / "ema", every=EVERY, dtype="float32")
    module = Lit()
    trainer = lightning_trainer(tmp_path, first, max_steps=7, max_epochs=9)
    trainer.fit(module, loader)
    trainer.save_checkpoint(tmp_path / "at7.ckpt")
    second = lightning_hook.PostHocEMA(tmp_path / "ema", every=EVERY, dtype="float32")
    trainer = lightning_trainer(tmp_path, second, max_steps=STEPS, max_epochs=9)
    trainer.fit(Lit(), loader, ckpt_path=tmp_path / "at7.ckpt", weights_only=False)
    assert second.store.t == STEPS
    assert sorted({average.t for average in list_snapshots(tmp_path / "ema")}) == [3, 6, 7, 9, 12]
    saved = torch.load(tmp_path / "at7.ckpt", weights_only=False)
    saved["callbacks"] = {}
    torch.save(saved, tmp_path / "without.ckpt")
    third = lightning_hook.PostHocEMA(tmp_path / "other", every=EVERY)
    with pytest.raises(ValueError, match="written without this callback"):
        lightning_trainer(tmp_path, third, max_steps=STEPS).fit(
            Lit(), loader, ckpt_path=tmp_path / "without.ckpt", weights_only=False
        )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_accelerate(tmp_path, accumulate):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model = make_model()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    ema = accelerate_hook.PostHocEMA(accelerator, model, tmp_path / "ema", every=EVERY, dtype="float32")
    size = 2 // accumulate
    for index in range(STEPS * accumulate):
        with accelerator.accumulate(model):
            accelerator.backward((model(DATA[size * index : size * (index + 1)]) ** 2).mean())
            optimizer.step()
            optimizer.zero_grad()
        ema.update(t=ema.t + 1, dt=1)
        if index == 3 * accumulate:
            accelerator.save_state(tmp_path / "state")
    check(ema)
    accelerator.load_state(tmp_path / "state")
    assert ema.t == (4 if accumulate == 1 else 3)


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = make_model()

    def forward(self, x):
        output = self.model(x)
        return {"loss": (output**2).mean(), "output": output}


def hf_trainer(path, hook, steps, model):
    args = transformers.TrainingArguments(
        output_dir=str(path / "hf"),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        save_steps=7,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    data = [{"x": row} for row in DATA]
    return InOrder(model=model, args=args, train_dataset=data, callbacks=[hook])


@pytest.mark.filterwarnings("ignore")
def test_transformers_trainer_also_resumed(tmp_path):
    hook = transformers_hook.PostHocEMA(tmp_path / "ema", every=EVERY, dtype="float32")
    hf_trainer(tmp_path, hook, STEPS, Squared()).train()
    check(hook.store, "model.")
    again = transformers_hook.PostHocEMA(tmp_path / "ema", every=EVERY, dtype="float32")
    trainer = hf_trainer(tmp_path, again, STEPS, Squared())
    trainer.train(resume_from_checkpoint=str(tmp_path / "hf" / "checkpoint-7"))
    check(again.store, "model.")


@pytest.mark.filterwarnings("ignore")
def test_transformers_trainer_goes_on_from_a_checkpoint_elsewhere(tmp_path):
    hook = transformers_hook.PostHocEMA(tmp_path / "ema", every=EVERY, dtype="float32")
    hf_trainer(tmp_path, hook, STEPS, Squared()).train()
    old, new = str(tmp_path / "hf" / "checkpoint-7"), tmp_path / "new"
    again = transformers_hook.PostHocEMA(tmp_path / "ema", every=EVERY, dtype="float32")
    trainer = hf_trainer(new, again, STEPS, Squared())
    with pytest.raises(ValueError, match=r"TrainingArguments\(resume_from_checkpoint"):
        trainer.train(resume_from_checkpoint=old)
    trainer = hf_trainer(new, again, STEPS, Squared())
    trainer.args.resume_from_checkpoint = old
    trainer.train(resume_from_checkpoint=old)
    check(again.store, "model.")


@pytest.fixture
def sharded():
    """A model under FSDP2, of one process."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    yield torch.distributed.fsdp.fully_shard(make_model(), mesh=mesh)
    torch.distributed.destroy_process_group()


def test_sharded_parameters_are_refused_where_a_checkpoint_holds_one_process(tmp_path, sharded):
    hook = transformers_hook.PostHocEMA(tmp_path / "ema", every=EVERY)
    state = transformers.TrainerState()
    with pytest.raises(ValueError, match=r"sharded \(0\.weight, 0\.bias, 2\.weight\).*every process"):
        hook.on_train_begin(None, state, None, model=sharded)
