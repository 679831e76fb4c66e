"""What a new service changes in a checkout, and which names it cannot have. That it runs: `test_walkthrough`."""

from pathlib import Path

import pytest

from orderly.__main__ import main
from orderly.new_service import CannotScaffold, deployed, singular, texts_of
from orderly.newman import ROOT


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Reviews", "lower-case letters and nothing else"),
        ("order-lines", "lower-case letters and nothing else"),
        ("order_lines", "lower-case letters and nothing else"),
        ("x", "2 to 30"),
        ("", "2 to 30"),
        ("../evil", "lower-case letters and nothing else"),
        ("billing", "billing is there already"),
        ("orderly", "orderly is there already"),
        ("order", "would be mistaken for orders"),
        ("billings", "would be mistaken for billing"),
        ("lambda", "a word of Python"),
        ("filter", "a word of Python"),
        ("match", "a word of Python"),
        ("calendar", "standard library"),
        ("returning", "a word of SQL"),
        ("observer", "NATS user"),
        ("client", "the namespace of the gateway"),
        ("users", "a door of the gateway"),
        ("health", "a path of the gateway"),
        ("nats", "an installed package"),
        ("libs", "an installed package"),
    ],
)
def test_a_name_that_means_something_else_is_refused(name: str, why: str) -> None:
    with pytest.raises(CannotScaffold) as refused:
        texts_of(ROOT, name)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ("earned", "is no fact"),
        ("points.Earned", "is no fact"),
        ("a.b.c", "is no fact"),
        ("dead.letter", "set aside"),
        ("order.placed", "orders states OrderPlaced already"),
    ],
)
def test_a_fact_that_means_something_else_is_refused(states: str, why: str) -> None:
    with pytest.raises(CannotScaffold, match=why):
        texts_of(ROOT, "loyalty", states=states)


def test_the_program_says_it_in_a_sentence_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["new-service", "orders"])
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err) == (1, "", "orders is there already: cmd/orders\n")


@pytest.mark.parametrize(
    ("name", "one"),
    [("orders", "order"), ("deliveries", "delivery"), ("boxes", "box"), ("loyalty", "loyalty"), ("status", "status")],
)
def test_one_of_them_has_its_name(name: str, one: str) -> None:
    assert singular(name) == one


def added(path: str, texts: dict[Path, str]) -> list[str]:
    """List the lines that a file gets; none may be lost."""
    before, after = (ROOT / path).read_text().splitlines(), texts[Path(path)].splitlines()
    new = [line for line in after if line not in before]
    assert [line for line in after if line in before] == before
    return new


def test_it_stands_in_every_list() -> None:
    texts = texts_of(ROOT, "deliveries")
    assert added("cmd/orderly/services.py", texts) == ["import deliveries.app", "    deliveries.app.service,"]
    assert added("pyproject.toml", texts) == [
        'deliveries = "deliveries.__main__:main"',
        '"asyncapi/deliveries.yaml" = "gateway/static/asyncapi/deliveries.yaml"',
    ]
    assert 'type: ClassVar[str] = "deliveries.delivery.noted"' in texts[Path("libs/contracts/deliveries.py")]
    assert not any(path.parts[:2] == ("cmd", "gateway") for path in texts)


def test_a_door_is_made_where_one_is_wanted() -> None:
    texts = texts_of(ROOT, "deliveries", door=True)
    assert added("cmd/gateway/api.py", texts) == ['    Door("/deliveries", "deliveries"),']
    (field,) = added("cmd/gateway/settings.py", texts)
    assert field.startswith('    deliveries_url: str = Field("http://127.0.0.1:80')


def test_a_file_that_is_not_as_expected_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    for path in ("cmd/gateway/api.py", "pyproject.toml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text((ROOT / path).read_text())
    services = tmp_path / "cmd/orderly/services.py"
    services.parent.mkdir()
    services.write_text("")
    (tmp_path / "libs/contracts").mkdir(parents=True)
    with pytest.raises(CannotScaffold, match=r"cmd/orderly/services\.py is not as expected"):
        texts_of(tmp_path, "deliveries")
    assert services.read_text() == ""


MANIFEST = """\
# Billing: accounts.
kind: Deployment
metadata:
  name: billing
spec:
  env:
    - valueFrom: {secretKeyRef: {name: billing-db-secret, key: uri}}
"""


def test_what_runs_billing_elsewhere_runs_the_new_one_too(tmp_path: Path) -> None:
    for name in ("auth", "billing", "orders"):
        (tmp_path / "cmd" / name).mkdir(parents=True)
        (tmp_path / "cmd" / name / "app.py").touch()
    assert deployed(tmp_path, "deliveries", door=True) == {}  # neither compose nor manifests: nothing to say

    base = tmp_path / "manifests" / "base"
    (base / "billing").mkdir(parents=True)
    (base / "billing" / "deployment.yaml").write_text(MANIFEST)
    (base / "kustomization.yaml").write_text("resources:\n  - auth\n  - billing\n  - orders\n")
    (tmp_path / "docker").mkdir()
    compose = "gateway:\n  environment:\n    BILLING_URL: http://billing:8000\n"
    (tmp_path / "docker" / "compose.yaml").write_text(compose)
    made = deployed(tmp_path, "deliveries", door=False)
    deployment = MANIFEST.partition("\n")[2].replace("billing", "deliveries")
    assert made == {
        Path("manifests/base/deliveries/deployment.yaml"): deployment,
        Path("manifests/base/kustomization.yaml"): "resources:\n  - auth\n  - billing\n  - deliveries\n  - orders\n",
    }
    with_door = deployed(tmp_path, "deliveries", door=True)[Path("docker/compose.yaml")]
    assert with_door == f"{compose}    DELIVERIES_URL: http://deliveries:8000\n"
