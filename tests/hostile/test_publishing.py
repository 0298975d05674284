"""A pull request to a repository of results adds result files; what else it tries is refused, and nothing is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_results as made
import pytest
import yaml

from embench.core.errors import BadInput
from embench.data.catalog import find_task
from embench.scoring import results, submit, test_sets
from embench.scoring.pull_request import review

ROOT = Path(__file__).parents[2]
PUBLISH = ROOT / "docs" / "publish"
ME = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str, given: bytes = b"") -> str:
    done = subprocess.run(
        ["git", *ME, "-C", str(folder), *arguments], input=given, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(errors="surrogateescape").strip()


class Request:
    """A branch of a clone, made of what is put into it."""

    def __init__(self, clone: Path) -> None:
        self.clone = clone
        git(clone, "checkout", "-q", "-B", "request", "origin/main")

    def put(self, path: str, content: bytes | str, mode: str = "100644") -> None:
        """Add an entry to the index under any name and mode, without a file of that name."""
        blob = git(
            self.clone, "hash-object", "-w", "--stdin", given=content.encode() if isinstance(content, str) else content
        )
        entry = f"{mode} {blob}\t".encode() + os.fsencode(path) + b"\0"
        git(self.clone, "update-index", "-z", "--index-info", given=entry)

    def result(self, seed: int, place: str | None = None, **changes: object) -> str:
        """Add a valid result of ``retina`` where it belongs, or somewhere else; return where that is."""
        made_one = made.result("retina", find_task("vnc-mito"), seed, submitter="somebody", **changes)
        file = self.clone.parent / "result.json"
        results.save(made_one, file)
        path = place or f"results/{submit.place_of(made_one)}"
        self.put(path, file.read_bytes())
        return path

    def commit(self) -> str:
        git(self.clone, "commit", "-q", "--allow-empty", "-m", "a request")
        head = git(self.clone, "rev-parse", "HEAD")
        git(self.clone, "push", "-q", "-f", "origin", "HEAD:refs/pull/1/head")
        git(self.clone, "reset", "-q", "--hard")
        git(self.clone, "checkout", "-q", "--detach", "origin/main")
        return head


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository that holds three stored results, the workflow and its pins."""
    work = tmp_path / "work"
    git(tmp_path, "init", "-q", "-b", "main", str(work))
    for seed in range(3):
        stored = made.result("retina", find_task("vnc-mito"), seed)
        results.save(stored, work / "results" / submit.place_of(stored))
    known = {"vnc-mito": [{"data_hash": stored.fingerprint.data_hash, "images": test_sets.truth_of(stored)}]}
    (work / "results" / test_sets.FILE).write_text(json.dumps(known))
    for name, place in (
        ("leaderboard.yml", ".github/workflows"),
        ("requirements.txt", ".github/leaderboard"),
        ("embench.txt", ".github/leaderboard"),
    ):
        (work / place).mkdir(parents=True, exist_ok=True)
        (work / place / name).write_bytes((PUBLISH / name).read_bytes())
    git(work, "add", "--all")
    git(work, "commit", "-q", "-m", "results")
    git(tmp_path, "clone", "-q", "--bare", str(work), str(tmp_path / "origin.git"))
    return tmp_path / "origin.git"


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "-q", str(origin), str(tmp_path / "clone"))
    return tmp_path / "clone"


def stored(request: Request, seed: int = 1) -> str:
    return git(request.clone, "ls-files", f"results/*/seed-{seed}.json")


def canary(request: Request) -> str:
    return f"open({str(request.clone.parent / 'canary')!r}, 'w').write('ran')\n"


def deleted(request: Request) -> None:
    git(request.clone, "rm", "-q", stored(request))


def worsened(request: Request) -> None:
    worse = made.result("retina", find_task("vnc-mito"), 1, quality=0.1)
    results.save(worse, request.clone.parent / "worse.json")
    request.put(stored(request), (request.clone.parent / "worse.json").read_bytes())


def moved(request: Request) -> None:
    path = stored(request)
    git(request.clone, "mv", path, path.replace("seed-1.json", "seed-7.json"))


def merged_away(request: Request) -> None:
    """Merge main's latest, and leave out what it brought."""
    clone = request.clone
    later = made.result("retina", find_task("vnc-mito"), 8)
    results.save(later, clone / "results" / submit.place_of(later))
    git(clone, "add", "results")
    git(clone, "commit", "-q", "-m", "main goes on")
    git(clone, "push", "-q", "origin", "HEAD:main")
    git(clone, "checkout", "-q", "-B", "request", "HEAD~1")
    request.result(9)
    git(clone, "commit", "-q", "-m", "mine")
    git(clone, "merge", "-q", "-s", "ours", "-m", "evil", "origin/main")


def other_history(request: Request) -> None:
    git(request.clone, "checkout", "-q", "--orphan", "other")
    request.result(4)


def submodule(request: Request) -> None:
    head = git(request.clone, "rev-parse", "HEAD")
    git(request.clone, "update-index", "--add", "--cacheinfo", f"160000,{head},results/vnc-mito/sub")


def by_plain(path: str) -> Callable[[Request], None]:
    return lambda request: request.put(path, canary(request))


FOLDER = "results/vnc-mito/retina/retina-0123456789ab"
HOSTILE: dict[str, tuple[Callable[[Request], object], str]] = {
    "deletes a stored result": (deleted, "deleted"),
    "worsens a stored result": (worsened, "changed"),
    "moves a stored result": (moved, "deleted"),
    "merges main's results away": (merged_away, "deleted"),
    "has another history": (other_history, "shares no history"),
    "adds nothing": (lambda request: None, "adds nothing"),
    "a program beside the workflow": (by_plain("pip.py"), "pip.py: not a result"),
    "a program among the results": (by_plain("results/pip.py"), "not a result"),
    "a program in place of a task": (by_plain("results/vnc-mito/__init__.py"), "not a result"),
    "start-up code": (by_plain("sitecustomize.py"), "not a result"),
    "another workflow": (by_plain(".github/workflows/leaderboard.yml"), "changed"),
    "a new workflow": (by_plain(".github/workflows/evil.yml"), "not a result"),
    "other pins": (by_plain(".github/leaderboard/requirements.txt"), "changed"),
    "attributes": (by_plain("results/.gitattributes"), "not a result"),
    "ignored results": (by_plain(".gitignore"), "not a result"),
    "a page": (by_plain("site/index.html"), "not a result"),
    "the registry of data": (by_plain("results/registry.json"), "changed"),
    "a hidden trial": (by_plain("results/vnc-mito/retina/.x/seed-0.json"), "not a result"),
    "a file among folders": (by_plain("results/seed-0.json"), "not a result"),
    "a line end in a name": (by_plain("results/vnc-mito/a\nb/r-0123456789ab/seed-0.json"), "not a result"),
    "a name that is no text": (by_plain("results/vnc-mito/\udcff/r-0123456789ab/seed-0.json"), "not a result"),
    "a link as a result": (lambda r: r.put(f"{FOLDER}/seed-9.json", "/etc/passwd", "120000"), "a link"),
    "a link as a folder": (lambda r: r.put("results/vnc-mito/retina", "/etc", "120000"), "not a result"),
    "a link as a section": (lambda r: r.put(f"{FOLDER}/seed-9.sections/a-z0.png", "/etc/hosts", "120000"), "a link"),
    "a submodule": (submodule, "not a result"),
    "an executable": (lambda r: r.put(f"{FOLDER}/seed-9.json", "{}", "100755"), "a program"),
    "no result": (lambda r: r.put(f"{FOLDER}/seed-9.json", "{}"), "not a result of schema"),
    "a large file": (lambda r: r.put(f"{FOLDER}/seed-9.json", b" " * (results.MAX_BYTES + 1)), "has at most"),
    "a wrong place": (lambda r: r.result(9, f"{FOLDER}/seed-9.json"), "not where it belongs"),
    "a section of nothing": (
        lambda r: (r.result(9), r.put(f"{FOLDER}/seed-9.sections/a-z0.png", "x")),
        "no result names this section",
    ),
    "other data": (lambda r: r.result(9, data_hash="f" * 64), "data hash"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_request_is_refused_and_nothing_of_it_is_run(what: str, clone: Path, tmp_path: Path) -> None:
    make, says = HOSTILE[what]
    request = Request(clone)
    make(request)
    head = request.commit()
    out = tmp_path / "added"
    with pytest.raises(BadInput, match=says):
        review(clone, "origin/main", head, clone / "results", out)
    assert not (tmp_path / "canary").exists()
    assert not git(clone, "status", "--porcelain"), "the checkout is as it was"


def test_a_request_that_adds_results_is_taken_as_it_is(clone: Path, tmp_path: Path) -> None:
    request = Request(clone)
    paths = [request.result(seed) for seed in (3, 4)]
    head = request.commit()
    checked = review(clone, "origin/main", head, clone / "results", tmp_path / "added")
    assert [f"results/{each.place}" for each in checked] == paths
    assert sorted(str(p.relative_to(tmp_path / "added")) for p in (tmp_path / "added").rglob("*.json")) == sorted(
        path.removeprefix("results/") for path in paths
    )
    with pytest.raises(BadInput, match="not empty"):
        review(clone, "origin/main", head, clone / "results", tmp_path / "added")


def test_a_request_brings_results_of_who_makes_it_alone(clone: Path, tmp_path: Path) -> None:
    """Whose rows they are stands in the file, and is who the host says made the request."""
    request = Request(clone)
    request.result(3)
    head = request.commit()
    with pytest.raises(BadInput, match="names somebody as submitter"):
        review(clone, "origin/main", head, clone / "results", tmp_path / "added", "Mallory")
    (each,) = review(clone, "origin/main", head, clone / "results", tmp_path / "other", "Somebody")
    assert each.place.parent.name.endswith("~somebody")
    given = tmp_path / "mine" / "seed-4.json"
    results.save(made.result("retina", find_task("vnc-mito"), 4), given)
    (placed,) = submit.submit([given], clone / "results", "Me-2")
    assert results.load(clone / "results" / placed.place).submitter == "me-2"
    with pytest.raises(BadInput, match="submitted by me-2"):
        submit.submit([clone / "results" / placed.place], tmp_path / "x", "mallory")
    with pytest.raises(BadInput, match="not a login"):
        submit.submit([given], clone / "results", "../x")


def test_a_checkout_that_was_handed_over_runs_nothing(clone: Path, tmp_path: Path) -> None:
    """Its own configuration names programs; asking git about it starts none of them."""
    program = tmp_path / "monitor"
    program.write_text(f"#!/bin/sh\necho ran >> {tmp_path / 'canary'}\n")
    program.chmod(0o755)
    hooks = clone / ".git" / "hooks"
    for name in ("post-checkout", "post-index-change", "pre-commit", "reference-transaction"):
        (hooks / name).write_text(program.read_text())
        (hooks / name).chmod(0o755)
    request = Request(clone)
    request.result(3)
    head = request.commit()
    (tmp_path / "canary").unlink(missing_ok=True)
    for name in (
        "core.fsmonitor",
        "diff.external",
        "core.pager",
        "core.sshCommand",
        "filter.x.clean",
        "diff.x.textconv",
    ):
        git(clone, "config", name, str(program))
    git(clone, "config", "remote.origin.promisor", "true")
    git(clone, "config", "protocol.ext.allow", "always")
    git(clone, "config", "remote.origin.url", f"ext::{program}")
    (clone / ".git" / "info" / "attributes").write_text("* filter=x diff=x\n")
    review(clone, "origin/main", head, clone / "results", tmp_path / "added")
    submit.submit([tmp_path / "added"], clone / "results")
    assert not (tmp_path / "canary").exists()


# The workflow

WORKFLOW = yaml.safe_load((PUBLISH / "leaderboard.yml").read_text())


def run_steps(job: str, clone: Path, temp: Path, **event: str) -> tuple[int, str]:
    """Run a job's own commands as the runner would, but for the installation: what is tested is here already."""
    temp.mkdir()
    said = ""
    for step in WORKFLOW["jobs"][job]["steps"]:
        if "run" not in step or step["name"] == "Install":
            continue
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EMBENCH")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RUNNER_TEMP": str(temp),
            **{
                name: event[re.search(r"[\w.]+", value.strip("${} "))[0]] for name, value in step.get("env", {}).items()
            },
        }
        assert "${{" not in step["run"], "what a request says reaches a command through its environment alone"
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", step["run"]],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=120,
        )
        said += done.stdout + done.stderr
        if done.returncode:
            return done.returncode, said
    return 0, said


def runner(origin: Path, tmp_path: Path) -> Path:
    """A checkout of main as ``actions/checkout`` makes it."""
    git(tmp_path, "clone", "-q", str(origin), str(tmp_path / "runner"))
    return tmp_path / "runner"


def test_the_workflow_takes_a_request_that_adds_results(origin: Path, clone: Path, tmp_path: Path) -> None:
    request = Request(clone)
    request.result(3)
    head = {"github.event.pull_request.head.sha": request.commit(), "github.event.pull_request.user.login": "Somebody"}
    status, said = run_steps("check", runner(origin, tmp_path), tmp_path / "temp", **head)
    assert status == 0, said
    page = (tmp_path / "temp" / "site" / "index.html").read_text()
    assert "retina" in page


def test_the_workflow_refuses_a_hostile_request(origin: Path, clone: Path, tmp_path: Path) -> None:
    """All that can be tried at once: each is named, none is run, and no page comes of it."""
    request = Request(clone)
    for path in (
        "pip.py",
        "embench.py",
        "sitecustomize.py",
        "typer.py",
        "results/numpy.py",
        ".github/workflows/evil.yml",
    ):
        request.put(path, canary(request))
    deleted(request)
    request.result(3)
    head = {"github.event.pull_request.head.sha": request.commit(), "github.event.pull_request.user.login": "Somebody"}
    status, said = run_steps("check", runner(origin, tmp_path), tmp_path / "temp", **head)
    assert status == 2, said
    for path in ("pip.py", "embench.py", "sitecustomize.py", "typer.py", "results/numpy.py", "evil.yml", "seed-1.json"):
        assert path in said
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "temp" / "site").exists()


def test_the_page_is_built_from_main_into_a_new_folder(origin: Path, tmp_path: Path) -> None:
    here = runner(origin, tmp_path)
    (here / "site").mkdir()
    (here / "site" / "index.html").write_text("somebody's own page")
    status, said = run_steps("build", here, tmp_path / "temp")
    assert status == 0, said
    assert "somebody's own page" not in (tmp_path / "temp" / "site" / "index.html").read_text()
    (upload,) = [step for step in WORKFLOW["jobs"]["build"]["steps"] if "upload-pages" in step.get("uses", "")]
    assert upload["with"]["path"] == "${{ runner.temp }}/site"


def test_no_step_beside_a_request_may_write() -> None:
    """Rights are given job by job, and the one that may write runs no command and no request."""
    assert WORKFLOW["permissions"] == {}
    jobs = WORKFLOW["jobs"]
    assert jobs["check"]["permissions"] == {"contents": "read"}
    assert jobs["build"]["permissions"] == {"contents": "read"}
    assert jobs["publish"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert [step.get("run") for step in jobs["publish"]["steps"]] == [None]
    assert "pull_request_target" not in jobs["publish"].get("if", "")
    assert jobs["publish"]["needs"] == "build"
    assert "github.event_name != 'pull_request_target'" in jobs["build"]["if"]
    for job in jobs.values():
        for step in job["steps"]:
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
                assert step["with"].get("ref", "main") == "main", "never the request's tree"
            assert "cache" not in step.get("with", {})
            assert "secrets." not in str(step)


def test_actions_and_packages_are_pinned_by_hash() -> None:
    uses = [step["uses"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "uses" in step]
    assert uses
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", each) for each in uses), uses
    pins = (PUBLISH / "requirements.txt").read_text()
    packages = re.findall(r"^[a-z0-9._-]+==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\\n|\n))+", pins, re.MULTILINE)
    assert len(packages) == len(re.findall(r"^[a-z0-9]", pins, re.MULTILINE)) > 10
    assert "--hash=sha256:" in (PUBLISH / "embench.txt").read_text()
    for job in ("check", "build"):
        (install,) = [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if step.get("name") == "Install"]
        assert all("--require-hashes" in line for line in install.strip().splitlines())
        assert "./" not in install
