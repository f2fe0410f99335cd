"""Lets packages that are not ours read what `cwprelay normalize` makes.

    python formats.py CWPRELAY FILE...    each FILE holds events as the API gives them

CEF is read by pycef and compared with the splunk format of the same event,
which shares no code with it but the reading of the event. OCSF documents must
be Detection Findings to the models of py-ocsf-models.
"""

import json
import re
import subprocess
import sys

import pycef
from py_ocsf_models.events.findings.detection_finding import DetectionFinding

# Ids of observables that OCSF 1.8.0 has and the models, which follow an older
# version, do not: command line, file path, device uid.
NEWER_OBSERVABLES = {13, 45, 47}

ACTIONS = ["detected", "redetected", "status-changed", "closed", "reopened"]

checks, failed = 0, []


def check(ok, *what):
    global checks
    checks += 1
    if not ok:
        failed.append(what)


def normalized(program, name, file, action):
    with open(file, "rb") as stdin:
        done = subprocess.run(
            [program, "normalize", "--format", name, "--action", action], stdin=stdin, capture_output=True, check=True
        )
    return done.stdout.decode("utf-8").split("\n")[:-1]


def cleaned(text):
    """What a value looks like on one line, with line breaks as \\n."""
    text = text.replace("\r\n", "\n")
    out = []
    for c in text:
        if c == "\n" or c == "\r":
            out.append(c)
        elif c in "\t\u0085\u2028\u2029":
            out.append(" ")
        elif ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0:
            out.append(f"\\x{ord(c):02x}")
        elif c in "\u200e\u200f\u061c\ufeff" or "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069":
            out.append(f"\\u{ord(c):04x}")
        else:
            out.append(c)
    return "".join(out)


def cef(line, event):
    parsed = pycef.parse(line)
    check(parsed is not None, "pycef reads nothing in", line)
    if parsed is None:
        return
    check(parsed["DeviceVendor"] == "Tencent Cloud" and parsed["CEFVersion"] == "0", parsed)
    check(parsed["DeviceEventClassID"] == "risk_process." + event["category"], parsed["DeviceEventClassID"])
    want = {
        "externalId": str(event["event_id"]),
        "cat": event["category"],
        "msg": event["description"],
        "VirusName": event["signature"],
        "CommandLine": event.get("process", ""),
        "filePath": event["file_path"],
        "fname": event["file_name"],
        "VirusTags": ",".join(event.get("vendor_tags", [])),
        "FindingUid": event["finding_uid"],
        "InstanceId": event.get("instance_id", ""),
    }
    for key, value in want.items():
        got = parsed.get(key)
        if value in ("", "unknown") and key != "cat":
            check(got is None or value == "unknown", key, got)
            continue
        # pycef leaves the two escapes of line breaks and backslashes to its user.
        got = re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), got or "")
        got = got.replace("\\x00", "\ufffd")  # NUL has no place in JSON formats
        value = cleaned(value).strip()
        if got.endswith("...(truncated)"):
            got, value = got[:100], value[:100]
        check(got == value, f"CEF {key} is {got!r}, want {value!r}")


def ocsf(document):
    for observable in document.get("observables", []):
        if observable["type_id"] in NEWER_OBSERVABLES:
            observable["type_id"] = 99
    try:
        finding = DetectionFinding.model_validate(document)
    except ValueError as err:
        check(False, "OCSF", err)
        return
    back = json.loads(finding.model_dump_json(exclude_none=True))
    for key in ("type_uid", "activity_id", "severity_id", "status_id", "time", "message"):
        check(back[key] == document[key], "OCSF", key, back[key], document[key])
    check(back["finding_info"]["uid"] == document["finding_info"]["uid"], "OCSF uid")


def main(program, files):
    for file in files:
        for action in ACTIONS:
            events = [json.loads(line) for line in normalized(program, "splunk", file, action)]
            lines = normalized(program, "cef", file, action)
            documents = normalized(program, "ocsf", file, action)
            check(len(events) == len(lines) == len(documents) > 0, file, len(events), len(lines), len(documents))
            for event, line, document in zip(events, lines, documents):
                cef(line, event)
                ocsf(json.loads(document))
    for what in failed[:20]:
        print(*what, file=sys.stderr)
    print(f"{checks} checks of CEF by pycef and of OCSF by py-ocsf-models, {len(failed)} failed")
    return 1 if failed or checks < 100 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
