"""Settings with a check off are refused; so are SRS files that nobody vouches for."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from zkserve.encoding import sha256_file
from zkserve.engines import engine
from zkserve.engines.ezkl.settings import Settings, fits, least_rows, require_rows
from zkserve.engines.srs import load_srs, mark_development
from zkserve.errors import (
    BundleMismatch,
    DevelopmentSrsRefused,
    InputOutOfRange,
    ModelRejected,
    NotFound,
)
from zkserve.types import InputMode, Scale, WeightsMode

HASHED = {"Hashed": {"hash_is_public": True, "outlets": []}}
SOUND = {
    "run_args": {
        "input_visibility": HASHED,
        "param_visibility": HASHED,
        "output_visibility": "Public",
        "check_mode": "SAFE",
        "ignore_range_check_inputs_outputs": False,
        "lookup_range": [-100, 200],
        "logrows": 12,
        "decomp_base": 1024,
        "decomp_legs": 3,
    },
    "check_mode": "SAFE",
    "num_rows": 3120,
    "total_const_size": 114,
    "module_sizes": {"polycommit": [], "poseidon": [1029, [2]]},
    "required_lookups": [],
    "model_input_scales": [8],
    "model_output_scales": [16],
    "model_instance_shapes": [[1, 2]],
}


def written(tmp_path: Path, settings: object) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    return path


def test_sound_settings_are_read(tmp_path: Path):
    settings = Settings.read(written(tmp_path, SOUND))
    assert settings == Settings(
        input_mode=InputMode.COMMITTED,
        weights_mode=WeightsMode.HASHED,
        input_scale=8,
        output_scale=Scale(multiplier=1, shift=16),
        logrows=12,
        rows=3120,
        element_bound=1 << 30,
        constants=114,
        instances=4,
        outputs=2,
        weights_points=0,
        lookup_range=None,
    )


@pytest.mark.parametrize(
    ("visibility", "mode"),
    [
        (HASHED, WeightsMode.HASHED),
        ("Fixed", WeightsMode.FIXED),
        ("KZGCommit", WeightsMode.POLYCOMMIT),
    ],
)
def test_settings_say_how_weights_are_bound(tmp_path: Path, visibility: object, mode: WeightsMode):
    settings = copy.deepcopy(SOUND)
    settings["run_args"]["param_visibility"] = visibility
    settings["module_sizes"]["polycommit"] = [17] * (mode is WeightsMode.POLYCOMMIT)
    assert Settings.read(written(tmp_path, settings)).weights_mode is mode


@pytest.mark.parametrize(
    ("sizes", "points"),
    [([1], 1), ([4088], 1), ([4089], 2), ([17, 17], 2), ([3 * 4090], 4), ([17, 9000], 4)],
)
def test_settings_say_how_many_points_commit_to_the_weights(
    tmp_path: Path, sizes: list[int], points: int
):
    """Of 4096 rows, 4090 may hold cells; ezkl takes another column from the last but one on."""
    settings = copy.deepcopy(SOUND)
    settings["run_args"]["param_visibility"] = "KZGCommit"
    settings["module_sizes"]["polycommit"] = sizes
    assert Settings.read(written(tmp_path, settings)).weights_points == points


@pytest.mark.parametrize(
    ("visibility", "sizes"),
    [
        ("KZGCommit", []),
        ("KZGCommit", [0]),
        ("KZGCommit", [17, 0]),
        ("KZGCommit", [-4]),
        ("KZGCommit", [True]),
        ("KZGCommit", ["17"]),
        ("KZGCommit", 17),
        ("KZGCommit", None),
        ("Fixed", [17]),
        (HASHED, [17]),
    ],
)
def test_settings_that_commit_to_nothing_or_to_something_else_are_refused(
    tmp_path: Path, visibility: object, sizes: object
):
    settings = copy.deepcopy(SOUND)
    settings["run_args"]["param_visibility"] = visibility
    settings["module_sizes"]["polycommit"] = sizes
    with pytest.raises(BundleMismatch):
        Settings.read(written(tmp_path, settings))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("check_mode",), "UNSAFE"),
        (("run_args", "check_mode"), "UNSAFE"),
        (("run_args", "ignore_range_check_inputs_outputs"), True),
        (("run_args", "param_visibility"), "Private"),
        (("run_args", "param_visibility"), "Public"),
        (("run_args", "param_visibility"), {"Hashed": {"hash_is_public": False}}),
        (("run_args", "input_visibility"), "Private"),
        (("run_args", "output_visibility"), "Private"),
        (("model_output_scales",), [8, 8]),
        (("model_output_scales",), [-1]),
        (("model_instance_shapes",), []),
        (("module_sizes", "poseidon"), [1029, []]),
        (("run_args",), None),
    ],
)
def test_a_check_switched_off_is_refused(tmp_path: Path, path: tuple[str, ...], value: object):
    settings = copy.deepcopy(SOUND)
    inner = settings
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(BundleMismatch):
        Settings.read(written(tmp_path, settings))


@pytest.mark.parametrize(("base", "digits", "fits"), [(1 << 18, 14, True), (1 << 23, 11, False)])
def test_digits_that_hold_more_than_the_field_are_refused(
    tmp_path: Path, base: int, digits: int, fits: bool
):
    settings = copy.deepcopy(SOUND)
    settings["run_args"].update(decomp_base=base, decomp_legs=digits)
    if fits:
        assert Settings.read(written(tmp_path, settings)).element_bound == 1 << 252
    else:
        with pytest.raises(BundleMismatch, match="several spellings"):
            Settings.read(written(tmp_path, settings))


def test_broken_settings_are_refused(tmp_path: Path):
    path = tmp_path / "settings.json"
    path.write_text("{")
    with pytest.raises(BundleMismatch):
        Settings.read(path)


@pytest.mark.parametrize("extremes", [(-101, 0), (0, 201)])
def test_a_witness_past_the_lookup_table_is_out_of_range(tmp_path: Path, extremes: tuple[int, int]):
    settings = Settings.read(written(tmp_path, SOUND | {"required_lookups": [{"Sigmoid": {}}]}))
    settings.check_lookups(-100, 200)
    with pytest.raises(InputOutOfRange, match="lookup"):
        settings.check_lookups(*extremes)


def test_an_srs_is_for_production_only_with_a_digest_and_without_a_mark(tmp_path: Path):
    path = tmp_path / "kzg.srs"
    with pytest.raises(NotFound):
        load_srs(path, sha256=None, production=False)
    path.write_bytes(b"powers")
    digest = sha256_file(path)
    assert not load_srs(path, sha256=digest, production=True).development
    with pytest.raises(BundleMismatch, match="SHA-256"):
        load_srs(path, sha256="00" * 32, production=False)
    assert load_srs(path, sha256=None, production=False).development
    with pytest.raises(DevelopmentSrsRefused):
        load_srs(path, sha256=None, production=True)
    mark_development(path)
    assert load_srs(path, sha256=digest, production=False).development
    with pytest.raises(DevelopmentSrsRefused):
        load_srs(path, sha256=digest, production=True)


def test_engines_are_found_by_name():
    assert engine("ezkl") is engine("ezkl")
    assert engine("ezkl").name == "ezkl"
    with pytest.raises(NotFound, match="no engine"):
        engine("nothing")


@pytest.mark.parametrize(
    ("name", "value"),
    [("decomp_legs", 1 << 40), ("decomp_legs", 0), ("decomp_base", 1 << 40), ("decomp_base", 1)],
)
def test_powers_that_nobody_can_compute_are_refused_at_once(tmp_path: Path, name: str, value: int):
    settings = copy.deepcopy(SOUND)
    settings["run_args"][name] = value
    with pytest.raises(BundleMismatch, match="digits of base"):
        Settings.read(written(tmp_path, settings))


def test_nested_and_endless_settings_are_refused(tmp_path: Path):
    path = tmp_path / "settings.json"
    for text in ("[" * 100_000, " " * (16 << 20) + "{}"):
        path.write_text(text)
        with pytest.raises(BundleMismatch, match="cannot be read"):
            Settings.read(path)


def needing(*, hashed: int = 0, hashes: int = 1, shown: int = 2, logrows: int = 12) -> dict:
    """Return settings of a circuit that hashes and shows so many elements, as ezkl counts them."""
    sizes = {"polycommit": [], "poseidon": [41 * hashed + 2 * hashes, [hashes]]}
    return SOUND | {
        "run_args": SOUND["run_args"] | {"logrows": logrows},
        "module_sizes": sizes if hashed else {"polycommit": [], "poseidon": [0, [0]]},
        "model_instance_shapes": [[1, shown - 1], [1, 1]],
    }


@pytest.mark.parametrize(
    ("most", "logrows"), [(6, 8), (12, 9), (25, 10), (50, 11), (100, 12), (202, 13)]
)
def test_as_many_elements_are_hashed_as_ezkl_set_up_with_and_not_one_more(most: int, logrows: int):
    require_rows(needing(hashed=most, logrows=logrows))
    with pytest.raises(ModelRejected, match=rf"of 2\^{logrows} rows {2**logrows - 6} can be used"):
        require_rows(needing(hashed=most + 1, logrows=logrows))
    assert least_rows(needing(hashed=most), 1) == least_rows(needing(hashed=most + 1))
    assert least_rows(needing(hashed=most), -1) == least_rows(needing(hashed=most - 1))


def test_as_much_is_shown_as_a_column_holds_and_not_one_more():
    require_rows(needing(shown=250, logrows=8))
    with pytest.raises(ModelRejected):
        require_rows(needing(shown=251, logrows=8))
    assert least_rows(needing(hashed=1, shown=250)) == 251  # the hash is shown too
    assert fits(4090, 12)
    assert not fits(4091, 12)


@pytest.mark.parametrize("sizes", [(1, 1), (38, 15), (3, 4, 5)])
def test_several_hashes_are_never_counted_too_low(sizes: tuple[int, ...]):
    each = sum(40 * size + -(-size // 2) + 2 for size in sizes)
    found = least_rows(needing(hashed=sum(sizes), hashes=len(sizes)))
    assert each <= found <= each + len(sizes) // 2
