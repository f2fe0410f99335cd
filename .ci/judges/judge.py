"""Judges a running emulator of the CWP API by one of the vendor's own clients.

usage: judge.py cn|intl HOST:PORT

Every request is built, signed, sent and read by the vendor's code. What is
checked: the envelope, names and types of all fields against the client's
models, every filter, order and paging, and the errors. Exits 1 and says what is
wrong, or 0.
"""

import json
import os
import re
import sys
import time
import urllib.request
import warnings

from tencentcloud.common import credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.cwp.v20180228 import cwp_client, models

SITE, ADDRESS = sys.argv[1], sys.argv[2]
SECRET_ID = os.environ.get("JUDGE_SECRET_ID", "AKIDemulator")
SECRET_KEY = os.environ.get("JUDGE_SECRET_KEY", "emulator")

# What the emulator sends beyond the models, on purpose: records of the API gain
# fields without notice. A field that is not named here is a mistake.
UNDOCUMENTED = {"RiskScore", "AttackStage", "ContainerId", "Serial"}
# In the Chinese model only, as of the pinned versions.
CN_ONLY = {"QUUID", "ExeMd5"}

problems = []
checks = 0


def check(ok, text):
    global checks
    checks += 1
    if not ok:
        problems.append(text)


def client(secret_id=SECRET_ID, secret_key=SECRET_KEY, token=None, language=None):
    http = HttpProfile(protocol="http", endpoint=ADDRESS, reqTimeout=20)
    profile = ClientProfile(httpProfile=http, language=language) if language else ClientProfile(httpProfile=http)
    return cwp_client.CwpClient(credential.Credential(secret_id, secret_key, token), "", profile)


CLIENT = client()


def ask(c=CLIENT, **params):
    """One request, given as the API's JSON; the vendor's model and its warnings."""
    request = models.DescribeRiskProcessEventsRequest()
    request.from_json_string(json.dumps(params))
    while True:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                return c.DescribeRiskProcessEvents(request), [str(w.message) for w in caught]
            except TencentCloudSDKException as e:
                if e.code != "RequestLimitExceeded":
                    raise
        time.sleep(0.2)


def fails(code, c=CLIENT, what="", **params):
    try:
        ask(c, **params)
        check(False, f"{what or params}: succeeded, expected {code}")
    except TencentCloudSDKException as e:
        check(e.code == code, f"{what or params}: {e.code}, expected {code}")
        check(bool(e.message), f"{what or params}: no message")
        check(bool(UUID.fullmatch(e.requestId or "")), f"{what or params}: request id {e.requestId!r}")


UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TYPES = {"int": int, "str": str, "list of str": list}


def documented_types(model):
    """Field to type, from the comments that the vendor's generator writes."""
    return dict(re.findall(r":type (\w+): (.+)", model.__init__.__doc__))


def check_types(item, model, where, nullable):
    for field, kind in documented_types(model).items():
        value = getattr(item, field)
        if value is None:
            check(nullable, f"{where}.{field} is null in a record whose other fields are known")
        elif kind in TYPES:
            check(type(value) is TYPES[kind], f"{where}.{field} is {type(value).__name__}, documented as {kind}")
            if kind == "list of str":
                check(all(type(v) is str for v in value), f"{where}.{field} holds more than texts")
        else:
            check(kind.startswith(":class:"), f"{where}.{field}: type {kind} is not understood by this judge")


def every_record():
    """All records, by paging with offsets. The order inside a second differs
    between requests, so a pass repeats some and misses others; passes go on
    until nothing is missing."""
    records, unexpected = {}, set()
    for _ in range(20):
        for offset in range(0, 1 << 20, 100):
            answer, caught = ask(Limit=100, Offset=offset, By="StartTime", Order="ASC")
            check(type(answer.TotalCount) is int, "TotalCount is no integer")
            check(bool(UUID.fullmatch(answer.RequestId or "")), f"RequestId {answer.RequestId!r} is no UUID")
            check(len(answer.List) == max(0, min(100, answer.TotalCount - offset)), f"Offset {offset}: {len(answer.List)} records of {answer.TotalCount}")
            for text in caught:
                match = re.fullmatch(r"(.*) fileds are useless\.", text)  # the vendor's spelling
                check(match is not None, f"the client warns: {text}")
                unexpected.update(match.group(1).split(",") if match else [])
            records.update((r.EventId, r) for r in answer.List)
            if len(answer.List) < 100:
                break
        if len(records) == answer.TotalCount:
            break
    check(len(records) == answer.TotalCount, f"{len(records)} records found in 20 passes, TotalCount {answer.TotalCount}")
    return records, unexpected


def count(*filters):
    answer, _ = ask(Limit=100, Filters=[{"Name": n, "Values": list(v)} for n, v in filters])
    return answer.TotalCount, answer.List


def judge_records(records, unexpected):
    check(len(records) >= 1000, f"{len(records)} events; at least 1000 are needed")
    allowed = UNDOCUMENTED | (CN_ONLY if SITE == "intl" else set())
    check(unexpected <= allowed, f"fields that the model does not have: {sorted(unexpected - allowed)}")
    check(UNDOCUMENTED <= unexpected, "no record with new fields among them: the emulator is too tame")
    if SITE == "intl":
        check(CN_ONLY <= unexpected, f"{CN_ONLY} were expected to be unknown to this client; see the emulator's notes on the models")
    whole = 0
    for r in records.values():
        bare = r.MachineExtraInfo is None  # the form of a record in which all is null
        check_types(r, models.RiskProcessEvent, "RiskProcessEvent", nullable=bare or r.StartTime is None)
        if not bare:
            check_types(r.MachineExtraInfo, models.MachineExtraInfo, "MachineExtraInfo", nullable=False)
            whole += 1
    check(whole > 0.9 * len(records), f"only {whole} of {len(records)} records are whole")
    check(any(r.EventId > 2**53 for r in records.values()), "no id beyond 2^53")


def judge_filters(records):
    whole = [r for r in records.values() if r.MachineExtraInfo and r.StartTime and r.StartTime > "1"]
    probe = whole[len(whole) // 2]
    cases = {
        "HostId": (probe.Uuid, lambda r: r.Uuid == probe.Uuid),
        "IpOrName": (probe.MachineExtraInfo.PrivateIP, lambda r: probe.MachineExtraInfo.PrivateIP in r.MachineExtraInfo.PrivateIP),
        "VirusName": (probe.VirusName.split(".")[-1].lower(), lambda r: r.VirusName == probe.VirusName),
        "ProcessId": (str(probe.ProcessId), lambda r: r.ProcessId == probe.ProcessId),
        "FilePath": (probe.FilePath, lambda r: probe.FilePath in r.FilePath),
        "BeginTime": (probe.StartTime, lambda r: r.StartTime and r.StartTime >= probe.StartTime),
        "EndTime": (probe.StartTime, lambda r: r.StartTime and r.StartTime <= probe.StartTime),
    }
    for name, (value, holds) in cases.items():
        total, items = count((name, [value]))
        check(total >= 1 and items, f"{name}={value}: nothing found")
        for r in items:
            if r.MachineExtraInfo is not None:
                check(holds(r), f"{name}={value}: gives {r.EventId}, which it should not")
    # The bounds are inclusive, and together they name one second.
    total, items = count(("BeginTime", [probe.StartTime]), ("EndTime", [probe.StartTime]))
    same = {r.EventId for r in records.values() if r.StartTime == probe.StartTime}
    check({r.EventId for r in items} == same and total == len(same), f"second {probe.StartTime}: {total} events, expected {len(same)}")
    # The filter's numbering is not the record's.
    for value, status in {"0": 0, "1": 2, "2": 3, "3": 4}.items():
        total, items = count(("Status", [value]))
        expected = sum(r.HandleStatus == status for r in records.values())
        check({r.HandleStatus for r in items} <= {status}, f"Status={value}: gives {({r.HandleStatus for r in items})}")
        check(total == expected, f"Status={value}: {total}, expected {expected}")
    check(count(("Status", ["4"]))[0] == 0, "Status=4 finds records")
    zero, one = count(("Status", ["0"]))[0], count(("Status", ["1"]))[0]
    check(count(("Status", ["0", "1"]))[0] == zero + one, "several values are not joined by OR")


def judge_order():
    for by in ("StartTime", "DetectTime"):
        for order in ("ASC", "DESC"):
            answer, _ = ask(Limit=100, By=by, Order=order, Filters=[{"Name": "BeginTime", "Values": ["2000-01-01 00:00:00"]}])
            times = [getattr(r, by) for r in answer.List]
            check(times == sorted(times, reverse=order == "DESC"), f"By={by} Order={order}: not in order")
    answer, _ = ask()
    check(len(answer.List) == 10, f"without Limit: {len(answer.List)} records, documented are 10")
    check(len(ask(Limit=3)[0].List) == 3, "Limit=3 does not give 3")
    answer, _ = ask(Offset=10**9)
    check(not answer.List and answer.TotalCount > 0, "an Offset beyond the end gives records or no count")


def judge_errors():
    fails("AuthFailure.SignatureFailure", client(secret_key="wrong"), "wrong key")
    fails("AuthFailure.SecretIdNotFound", client(secret_id="AKIDother"), "wrong id")
    fails("AuthFailure.TokenFailure", client(token="stale"), "a token that nobody gave")
    fails("InvalidParameter", Limit=101)
    fails("InvalidParameter", Limit=-1)
    fails("InvalidParameter", Offset=-1)
    fails("InvalidParameter", By="EventId")
    fails("InvalidParameter", Order="UP")
    fails("InvalidParameter", Filters=[{"Name": "ProcessPath", "Values": ["x"]}])
    fails("InvalidParameter", Filters=[{"Name": "Status", "Values": ["9"]}])
    fails("InvalidParameter", Filters=[{"Name": "BeginTime", "Values": ["yesterday"]}])
    fails("InvalidParameter", Filters=[{"Name": "HostId", "Values": ["x"]}] * 6)
    fails("InvalidParameter", Filters=[{"Name": "HostId", "Values": ["x"] * 6}])
    try:
        CLIENT.call_json("DescribeMachines", {})
        check(False, "another action succeeded")
    except TencentCloudSDKException as e:
        check(e.code == "InvalidAction", f"another action: {e.code}")
    unsigned = ClientProfile(httpProfile=HttpProfile(protocol="http", endpoint=ADDRESS), signMethod="HmacSHA256")
    old = cwp_client.CwpClient(credential.Credential(SECRET_ID, SECRET_KEY), "", unsigned)
    try:
        ask(old)
        check(False, "a request signed by the old scheme succeeded")
    except TencentCloudSDKException as e:
        check(bool(e.code), "a request signed by the old scheme: no code")


def judge_account():
    if SITE != "intl":  # the Chinese client of sts is another package
        return
    from tencentcloud.sts.v20180813 import models as sts_models, sts_client

    profile = ClientProfile(httpProfile=HttpProfile(protocol="http", endpoint=ADDRESS))
    answer = sts_client.StsClient(credential.Credential(SECRET_ID, SECRET_KEY), "ap-guangzhou", profile).GetCallerIdentity(
        sts_models.GetCallerIdentityRequest())
    for field in ("Arn", "AccountId", "UserId", "PrincipalId", "Type", "RequestId"):
        check(type(getattr(answer, field)) is str and getattr(answer, field), f"GetCallerIdentity: {field} is no text")


def main():
    freeze = urllib.request.Request(f"http://{ADDRESS}/-/mutate", data=b'{"rate":0}', method="POST")
    urllib.request.urlopen(freeze, timeout=10).read()
    records, unexpected = every_record()
    judge_records(records, unexpected)
    judge_filters(records)
    judge_order()
    judge_errors()
    judge_account()
    for text in sorted(set(problems))[:40]:
        print(f"{SITE}: {text}", file=sys.stderr)
    print(f"{SITE}: {checks} checks by the vendor's client, {len(problems)} failed, {len(records)} records")
    return 1 if problems else 0


sys.exit(main())
