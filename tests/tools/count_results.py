#!/usr/bin/env python3
"""Count what a run of ctest or pytest found.

    count_results.py REPORT.xml     prints "PASSED FAILED", then one line for each test that failed

A Check program counts each of its checks, any other test counts as one. A program that ends badly
although its checks passed (a leak found at exit, a crash between two tests) counts as one failure.
"""
import re
import sys
import xml.etree.ElementTree

CHECKS = re.compile(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)", re.M)


def count(case):
    """(passed, failed) of one test case."""
    if case.get("status") is None:  # pytest's: one result each
        bad = case.find("failure") is not None or case.find("error") is not None
        return (0, 1) if bad else (0 if case.find("skipped") is not None else 1, 0)
    good = case.get("status") == "run"
    if not good and case.get("status") != "fail":
        return 0, 0 if case.get("status") in ("disabled", "notrun") and skipped(case) else 1
    checks = failed = 0
    for total, failures, errors in CHECKS.findall(case.findtext("system-out") or ""):
        checks += int(total)
        failed += int(failures) + int(errors)
    if checks == 0:
        return (1, 0) if good else (0, 1)
    if not good and failed == 0:
        failed = 1
        checks += 1
    return checks - failed, failed


def skipped(case):
    """Disabled or skipped on purpose; a program that could not be started is a failure."""
    node = case.find("skipped")
    return node is not None and "Unable to find" not in (node.get("message") or "")


def main():
    passed = failed = 0
    names = []
    for case in xml.etree.ElementTree.parse(sys.argv[1]).getroot().iter("testcase"):
        good, bad = count(case)
        passed, failed = passed + good, failed + bad
        if bad:
            names.append(case.get("name"))
    print(passed, failed)
    for name in names:
        print(name)


if __name__ == "__main__":
    main()
