"""Counts every test of a ./check and prints the line that ends it.

  tally.py [PLATFORM=]DIRECTORY…

Reads directories: NAME.tap (TAP, one step), NAME.json (meson's testlog.json, whose tests print TAP) and
NAME.xml (JUnit, from pytest). A program that dies before all its announced tests have reported counts the
missing ones as failed; so does a directory without results. Exits with 1 when a test failed or none ran.
"""
import json
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

RESULT = re.compile(r"^(not )?ok \d+(?: - )?(.*?)\s*(?:# SKIP\b\s*(.*))?$")
PLAN = re.compile(r"^1\.\.(\d+)")


class Tally:
    def __init__(self):
        self.passed, self.failed, self.skipped = 0, [], {}

    def skip(self, name, reason):
        self.skipped.setdefault(reason or "no reason given", []).append(name)

    def tap(self, suite, text, returncode=0):
        planned = reported = failures = 0
        said = ""  # the last remark: a skipping test says why before it skips
        for line in text.splitlines():
            plan, result = PLAN.match(line), RESULT.match(line)
            if plan:
                planned += int(plan[1])
            elif result:
                reported += 1
                name = f"{suite}: {result[2] or result[3]}"  # cmocka 1.1.5 puts the name behind SKIP
                if result[3] is not None:
                    self.skip(name, said or (result[3] if result[2] else ""))
                elif result[1]:
                    failures += 1
                    self.failed.append(name)
                else:
                    self.passed += 1
            if result:
                said = ""
            elif line.strip():
                said = line.lstrip("# ").strip()
        if reported < planned:
            self.failed += [f"{suite}: a test that never reported (exit status {returncode})"] * (planned - reported)
        elif returncode != 0 and not failures:
            self.failed.append(f"{suite}: exit status {returncode}")
        elif not reported:
            self.failed.append(f"{suite}: no test reported")

    def meson(self, tree, path):
        for line in path.read_text().splitlines():
            test = json.loads(line)
            suite = f"{tree}: {test['name'].split(':')[-1].strip()}"
            code = test.get("returncode") or 0
            if test["result"] == "TIMEOUT":
                code = code or "of a timeout"
            self.tap(suite, test.get("stdout") or "", code)

    def junit(self, suite, path):
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            name = f"{suite}: {case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
            skipped = case.find("skipped")
            if skipped is not None:
                self.skip(name, skipped.get("message", ""))
            elif case.find("failure") is not None or case.find("error") is not None:
                self.failed.append(name)
            else:
                self.passed += 1


    def read(self, path, platform):
        if path.suffix == ".tap":
            self.tap(f"{platform}check", path.read_text())
        elif path.suffix == ".json":
            self.meson(platform + path.stem, path)
        elif path.suffix == ".xml":
            self.junit(platform + path.stem, path)
        else:
            return False
        return True


def main(places):
    tally = Tally()
    for place in places:
        platform, _, directory = place.rpartition("=")
        paths = sorted(pathlib.Path(directory).glob("*"))
        if not sum([tally.read(path, platform and f"{platform}: ") for path in paths]):
            tally.failed.append(f"{platform or 'check'}: left no results")
    for name in tally.failed:
        print(f"failed: {name}")
    for reason, names in sorted(tally.skipped.items()):
        print(f"skipped, {reason}: " + ", ".join(names))
    skipped = sum(map(len, tally.skipped.values()))
    print(f"{tally.passed} passed, {len(tally.failed)} failed, {skipped} skipped")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
