"""A network's description travels as JSON and refuses what makes no sense, naming field, value and remedy."""

import json

import pytest

from unitgain.arch import NetworkSpec
from unitgain.recipe import Recipe
from unitgain.recipes import DIGITS, create, recipe
from unitgain.serial import differences, from_dict, to_dict
from unitgain.size import read_size, show_size

VALID = {"resolution": 16, "channels": 3, "model_channels": 32, "channel_mult": (1, 2), "channels_per_head": 16}


def test_json_round_trip(tiny_recipe):
    for value in (NetworkSpec(**VALID), NetworkSpec(resolution=64, channels=4, label_dim=1000), tiny_recipe, DIGITS):
        assert from_dict(type(value), json.loads(json.dumps(to_dict(value)))) == value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resolution": 0}, r"resolution = 0: must be 1 to"),
        ({"resolution": 10**9}, r"resolution = 1000000000: must be 1 to"),
        ({"resolution": ()}, r"resolution = \(\): must be 1 to 65536, or one to 3 such sides"),
        ({"resolution": (8, 8, 8, 8)}, r"resolution = \(8, 8, 8, 8\): must be"),
        ({"resolution": (8, 0)}, r"resolution = \(8, 0\): must be"),
        ({"resolution": 8, "channel_mult": (1,) * 16}, r"resolution = 8: would be padded .* 16 levels"),
        ({"resolution": (64, 3), "channel_mult": (1,) * 4}, r"resolution = \(64, 3\): would be padded .* take fewer"),
        ({"channels": -1}, r"channels = -1"),
        ({"num_blocks": 10**7}, r"num_blocks = 10000000: must be 1 to 256"),
        ({"model_channels": 10**7}, r"model_channels = 10000000: must be 1 to"),
        ({"label_dim": 10**9}, r"label_dim = 1000000000: must be 0"),
        ({"channel_mult": (1,) * 3000}, r"^.{1,400}$"),
        ({"label_dim": -1}, r"label_dim = -1: must be 0"),
        ({"channel_mult": ()}, r"channel_mult = \(\)"),
        ({"channels_per_head": 48}, r"channels_per_head = 48: must divide the 32 channels"),
        ({"dropout": 1.0}, r"dropout = 1.0: is a probability"),
        ({"res_balance": 1.5}, r"res_balance = 1.5: is a share"),
        ({"clip_act": 0.0}, r"clip_act = 0.0: must be positive"),
        ({"branch": "s c m s"}, None),
        ({"branch": "s c x s c"}, r"unknown token 'x' at position 2; known: s \("),
        ({"branch": "s c s c"}, r"no modulation"),
        ({"branch": "s m s"}, r"never reaches the block's output channels"),
    ],
)
def test_spec_names_field_value_and_remedy(change, words):
    if words is None:
        NetworkSpec(**{**VALID, **change})
        return
    with pytest.raises(ValueError, match=words):
        NetworkSpec(**{**VALID, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 0}, "batch = 0"),
        ({"lr": 0.0}, "lr = 0.0: must be positive"),
        ({"beta2": 1.0}, "beta2 = 1.0"),
        ({"ema": ()}, "ema"),
        ({"ema": (0.05, 0.05)}, "ema"),
        ({"ema": (0.3,)}, r"sigma_rel = 0.3 is not in \(0, 0.2886\)"),
        ({"t_ref": -1.0}, "t_ref"),
    ],
)
def test_recipe_names_field_value_and_remedy(tiny_recipe, change, words):
    with pytest.raises(ValueError, match=words):
        tiny_recipe.replace(**change)


def test_a_size_has_one_form():
    assert NetworkSpec(**VALID).size == (16, 16)
    assert NetworkSpec(**{**VALID, "resolution": (16, 16)}) == NetworkSpec(**VALID)
    assert to_dict(NetworkSpec(**VALID))["resolution"] == 16
    for size in ((48, 64), (40,), (8, 8, 8)):
        spec = NetworkSpec(**{**VALID, "resolution": size})
        assert spec.size == size and to_dict(spec)["resolution"] == list(size)
        assert from_dict(NetworkSpec, json.loads(json.dumps(to_dict(spec)))) == spec
    with pytest.raises(ValueError, match=r"NetworkSpec.resolution\[1\]: expected int, not 'a'"):
        from_dict(NetworkSpec, {"resolution": [48, "a"], "channels": 3})


def test_levels_are_those_of_the_padded_sides():
    spec = NetworkSpec(**{**VALID, "resolution": (45, 30), "channel_mult": (1, 1, 2)})
    assert spec.multiple == 4 and spec.level_sizes == ((48, 32), (24, 16), (12, 8))
    assert spec.level_names == ("48x32", "24x16", "12x8") and spec.resolutions == (48, 24, 12)


def test_sizes_as_text():
    for text, size in (("64", 64), ("48x64", (48, 64)), ("64x64", 64), ("8X16x32", (8, 16, 32))):
        assert read_size(text) == size
    assert [show_size(size) for size in (64, (48, 64), (8, 16, 32))] == ["64x64", "48x64", "8x16x32"]
    for text in ("", "x", "48x", "-1", "4x4x4x4", "1.5", "48*64"):
        with pytest.raises(ValueError, match=r"cannot read the size .*: write 64 for a square, or 48x64"):
            read_size(text)


def test_unknown_recipe_has_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown recipe 'digist'; did you mean 'digits'\?"):
        recipe("digist")
    with pytest.raises(ValueError, match=r"unknown recipe 'zzz'; known: .*digits"):
        create("zzz")


def test_json_errors_name_the_field():
    data = to_dict(DIGITS)
    with pytest.raises(ValueError, match=r"Recipe: unknown field 'bacth'; did you mean 'batch'"):
        from_dict(Recipe, {**data, "bacth": 3})
    with pytest.raises(ValueError, match=r"Recipe.batch: expected int, not 'many'"):
        from_dict(Recipe, {**data, "batch": "many"})
    with pytest.raises(ValueError, match=r"Recipe.network.resolution: expected int, not 8.5"):
        from_dict(Recipe, {**data, "network": {**data["network"], "resolution": 8.5}})
    with pytest.raises(ValueError, match=r"Recipe: field 'lr' is missing"):
        from_dict(Recipe, {name: value for name, value in data.items() if name != "lr"})


def test_differences_name_nested_fields():
    changed = DIGITS.replace(lr=0.5, network=DIGITS.network.replace(dropout=0.1))
    assert differences(to_dict(DIGITS), to_dict(changed)) == ["network.dropout: 0.0 -> 0.1", f"lr: {DIGITS.lr} -> 0.5"]


def test_create_takes_a_name_a_recipe_or_a_spec(tiny_recipe):
    assert create("digits").spec == DIGITS.network
    assert create(tiny_recipe.replace(sigma_data=0.7)).sigma_data == 0.7
    assert create(tiny_recipe.network).spec == tiny_recipe.network
