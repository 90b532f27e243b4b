"""Configurations: loading, typed overrides, JSON round trip, differences."""

import abc
import dataclasses
import json
import time
from functools import partial
from typing import Literal

import pytest

from rstg_jax import config
from rstg_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dot:
    heads: int = 1
    dim: int = 8

    def __post_init__(self):
        if self.dim % self.heads:
            raise ValueError(f"heads={self.heads} does not divide dim={self.dim}")


@dataclasses.dataclass(frozen=True)
class Simple:
    slope: float = 0.2


@dataclasses.dataclass(frozen=True)
class Model:
    attention: Dot | Simple = Dot()
    scales: tuple[tuple[int, int], ...] = ((3, 3), (1, 1))
    plan: tuple[str, ...] = ("time", "space")
    size: tuple[int, int] = (64, 64)
    kind: Literal["a", "b"] = "a"
    skip: bool = False
    dropout: float | None = None


@dataclasses.dataclass(frozen=True)
class Train:
    batch_size: int = 32
    learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Root:
    name: str = "x"
    model: Model = Model()
    train: Train = Train()


def test_override_parses_by_type():
    new = config.override(
        Root(),
        {
            "train.batch_size": "1_000",
            "train.learning_rate": "2",
            "model.scales": "(4,4),(2,1)",
            "model.plan": "time",
            "model.size": "[32, 16]",
            "model.kind": "b",
            "model.skip": "true",
            "model.dropout": "0.5",
            "name": "none",
        },
    )
    assert new == Root(
        "none",
        Model(Dot(), ((4, 4), (2, 1)), ("time",), (32, 16), "b", True, 0.5),
        Train(1000, 2.0),
    )
    assert isinstance(new.train.learning_rate, float)
    assert config.override(new, {"model.dropout": "none"}).model.dropout is None


def test_override_of_a_union_and_of_keys_that_fit_only_together():
    new = config.override(Root(), {"model.attention": "Simple", "model.attention.slope": "0.1"})
    assert new.model.attention == Simple(0.1)
    new = config.override(Root(), {"model.attention.heads": "3", "model.attention.dim": "6"})
    assert new.model.attention == Dot(3, 6)
    message = r"^config section 'model\.attention': heads=3 does not divide dim=8$"
    with pytest.raises(UserError, match=message):
        config.override(Root(), {"model.attention.heads": "3"})
    with pytest.raises(UserError, match=message):
        config.from_dict(Root, {"model": {"attention": {"class": "Dot", "heads": 3}}})


@dataclasses.dataclass(frozen=True)
class Optim:
    rate: float = 1.0

    def __post_init__(self):
        if self.rate < 0:
            raise UserError(f"rate={self.rate} must not be negative")


@dataclasses.dataclass(frozen=True)
class Outer:
    optim: Optim = Optim()
    limit: float = 2.0

    def __post_init__(self):
        if self.optim.rate > self.limit:
            raise UserError(f"optim.rate={self.optim.rate} is above limit={self.limit}")


@dataclasses.dataclass(frozen=True)
class Top:
    outer: Outer = Outer()


@pytest.mark.parametrize(
    ("cls", "changes", "message"),
    [
        (Top, {"outer.optim.rate": "-1"}, "config section 'outer.optim': rate=-1.0 must not be"),
        (Top, {"outer.limit": "0"}, "config section 'outer': optim.rate=1.0 is above limit=0.0"),
        (Outer, {"limit": "0"}, "optim.rate=1.0 is above limit=0.0"),
    ],
)
def test_a_section_that_refuses_its_values_is_named_once(cls, changes, message):
    with pytest.raises(UserError) as refused:
        config.override(cls(), changes)
    assert str(refused.value).startswith(message)
    key, value = next(iter(changes.items()))
    plain: object = float(value)
    for name in reversed(key.split(".")):
        plain = {name: plain}
    with pytest.raises(UserError) as again:
        config.from_dict(cls, plain)
    assert str(again.value) == str(refused.value)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Root(model=Model(kind="c")), "config key 'model.kind': 'c' is not one of a, b"),
        (Root(train=Train("8")), "config key 'train.batch_size': '8' is not of type int"),
        (Top(Optim()), "config key 'outer': Optim(rate=1.0) is not of type Outer"),
        (Root(model=Model(plan=("time", 1))), "config key 'model.plan': 1 is not of type str"),
    ],
)
def test_what_code_makes_is_checked(made, message):
    """Python itself takes anything."""
    with pytest.raises(UserError) as refused:
        config.check(made)
    assert str(refused.value) == message


@dataclasses.dataclass(frozen=True)
class MyTrain(Train):
    gamma: float = 2.0


def test_a_class_that_nobody_would_ask_is_refused():
    """Functions read sections; only abstract bases have methods for others to fill in."""
    with pytest.raises(
        UserError, match=r"'train': what MyTrain adds to Train would have no effect"
    ):
        config.check(Root(train=MyTrain()))
    with pytest.raises(UserError, match="'train': 'MyTrain' is not of type Train"):
        config.override(Root(), {"train": "MyTrain"})
    with pytest.raises(UserError, match=r"'train': .* is not of type Train"):
        config.check(Root(train={"batch_size": 8}))


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("train.batchsize", "train.batch_size"),
        ("batch_size", "train.batch_size"),
        ("model.atention.heads", "model.attention.heads"),
        ("trian", "train"),
        ("train.lerning_rate", "train.learning_rate"),
    ],
)
def test_misspelt_key_names_the_nearest(key, near):
    with pytest.raises(UserError, match=f"no config key '{key}'.*nearest is '{near}'"):
        config.override(Root(), {key: "1"})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("conv{1,2}", ("conv{1,2}",)),
        ("conv{1,2}/[a,b],head", ("conv{1,2}/[a,b]", "head")),
        ("(conv{1,},(a|b,c))", ("conv{1,}", "(a|b,c)")),
    ],
)
def test_commas_inside_a_regular_expression_do_not_split_it(text, values):
    assert config.override(Root(), {"model.plan": text}).model.plan == values


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("train.batch_size", "8.5", "int"),
        ("train.learning_rate", "fast", "float"),
        ("model.skip", "maybe", "bool"),
        ("model.size", "1,2,3", r"tuple\[int, int\]"),
        ("model.dropout", "x", "float | None"),
        ("train", "5", "Train"),
    ],
)
def test_wrong_type_names_key_value_and_type(key, value, wanted):
    with pytest.raises(UserError, match=f"{key}'.*{value}' is not of type {wanted}"):
        config.override(Root(), {key: value})


@pytest.mark.parametrize("value", ["nan", "-inf", "1e999"])
def test_numbers_that_are_not_finite(value):
    for key in ("train.learning_rate", "model.dropout"):
        with pytest.raises(UserError, match=f"config key '{key}': {value} is no finite number"):
            config.override(Root(), {key: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_of_code_and_of_stored_json_that_are_not_finite(value):
    for made, key in (
        (Root(train=Train(learning_rate=value)), "train.learning_rate"),
        (Root(model=Model(dropout=value)), "model.dropout"),
    ):
        stored = json.loads(json.dumps(config.to_dict(made)))
        for refuse, given in ((config.check, made), (partial(config.from_dict, Root), stored)):
            with pytest.raises(UserError) as refused:
                refuse(given)
            assert str(refused.value) == f"config key '{key}': {value} is no finite number"


def test_the_nearest_of_a_very_long_key_is_found_soon():
    key = "train.batchsize" + 30_000 * "(["
    start = time.process_time()
    with pytest.raises(UserError, match="the nearest is 'train\\.batch_size'"):
        config.override(Root(), {key: "8"})
    assert time.process_time() - start < 1


def test_json_round_trip_keeps_the_class_of_a_union():
    root = Root(model=Model(attention=Simple(0.3), dropout=None))
    text = json.dumps(config.to_dict(root))
    assert '"class": "Simple"' in text
    assert config.from_dict(Root, json.loads(text)) == root
    with pytest.raises(UserError, match=r"'model\.attention': no class 'Cross'.*Dot, Simple"):
        config.from_dict(Root, {"model": {"attention": {"class": "Cross"}}})
    with pytest.raises(UserError, match=r"'train\.batch'.*nearest is 'train\.batch_size'"):
        config.from_dict(Root, {"train": {"batch": 3}})
    with pytest.raises(UserError, match=r"'train\.batch_size': '3' is not of type int"):
        config.from_dict(Root, {"train": {"batch_size": "3"}})
    with pytest.raises(UserError, match=r"'train\.learning_rate': 1000* is not of type float"):
        config.from_dict(Root, {"train": {"learning_rate": 10**400}})
    with pytest.raises(UserError, match=r"'model\.attention': no class \['Dot'\]"):
        config.from_dict(Root, {"model": {"attention": {"class": ["Dot"]}}})


def test_hash_and_diff():
    a, b = Root(), config.override(Root(), {"train.batch_size": "8", "model.attention": "Simple"})
    assert config.config_hash(a) == config.config_hash(Root()) != config.config_hash(b)
    assert len(config.config_hash(a)) == 12
    assert config.diff(a, a) == []
    assert set(config.diff(a, b)) == {
        "model.attention.class: Dot != Simple",
        "train.batch_size: 32 != 8",
    }


def test_load_lists_the_choices(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    path.write_text(
        "from rstg_jax import config\n"
        "def get_config(variant='one'):\n"
        "    return config.choose({'one': lambda: 1, 'two': lambda: 2}, variant)\n"
    )
    assert config.load(str(path)) == 1
    assert config.load(f"{path}:two") == 2
    with pytest.raises(UserError, match="no variant 'three'; choose one of: one, two"):
        config.load(f"{path}:three")
    with pytest.raises(UserError, match=r"no variant 'tow' \(two\?\); choose one of: one, two"):
        config.load(f"{path}:tow")
    with pytest.raises(UserError, match=r"no config file .*b\.py'; choose one of: .*a\.py"):
        config.load(str(tmp_path / "b.py"))
    monkeypatch.chdir(tmp_path)
    missing = f"{tmp_path}/configs/sync_mnist.py"
    with pytest.raises(UserError, match=f"no config file '{missing}'; those that come with"):
        config.load("configs/sync_mnist.py:demo")


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Figure(Shape):
    name: str = "figure"


@dataclasses.dataclass(frozen=True)
class Square(Figure):
    side: float = 1.0

    def area(self) -> float:
        return self.side**2


@dataclasses.dataclass(frozen=True)
class Circle(Figure):
    radius: float = 1.0

    def area(self) -> float:
        return 3.14 * self.radius**2


@dataclasses.dataclass(frozen=True)
class Drawing:
    shape: Figure = dataclasses.field(default_factory=Square)


def test_subclasses_of_an_abstract_base_are_choices():
    changed = config.override(Drawing(), {"shape": "Circle", "shape.radius": "2"})
    assert changed == Drawing(Circle(radius=2.0))
    stored = config.to_dict(changed)
    assert stored == {"shape": {"class": "Circle", "name": "figure", "radius": 2.0}}
    assert config.from_dict(Drawing, stored) == changed
    with pytest.raises(UserError, match="no class 'Figure'; choose one of: Square, Circle"):
        config.from_dict(Drawing, {"shape": {"class": "Figure"}})


def test_names_of_keys_and_of_sections_match():
    names = ("train.keep", "data.boxes", "mesh")
    for key in ("train.keep", "data.boxes", "data.boxes.path", "mesh.data"):
        assert config.matches(key, names)
    for key in ("train.keep_all", "train", "data.boxes_of", "xmesh.data", "meshes", ""):
        assert not config.matches(key, names)
