"""The row of Hugging Face transformers: client/python/tests/test_transformers*.py, in the
environment of vLLM, which has transformers and torch."""
import collections
import os
import pathlib
import subprocess
import xml.etree.ElementTree

from table import Row

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 1200


def run(lab):
    """One row; the names of tests that failed are in it."""
    scripts = sorted((ROOT / "client/python/tests").glob("test_transformers*.py"))
    row = Row("transformers", lab.version, "transformers")
    report = lab.logs / "report.xml"
    done = subprocess.run([*lab.python, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml",
                           report, *scripts], cwd=ROOT,
                          env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=LIMIT_S, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    (lab.logs / "pytest.log").write_text(done.stdout)
    row.expect(scripts and done.returncode == 0, f"pytest ended with {done.returncode}")
    counted = collections.Counter()
    if report.exists():
        for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase"):
            bad = [kind for kind in ("failure", "error") if case.find(kind) is not None]
            state = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
            counted[state] += 1
            if bad:
                row.wrong.append(case.get("name"))
    row.expect(counted["passed"] > 0, "no test ran")
    row.say(", ".join(f"{count} tests {state}" for state, count in sorted(counted.items())),
            **counted)
    yield row
