#!/usr/bin/env python3
"""Writes tests/vectors/s3/sigv4.txt: requests signed by botocore (pip install botocore), for tests/io/test_s3.c.
One request a block: lines method, url path, query, host, payload hash, time, extra header, token, Authorization."""
import hashlib
import sys
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
import botocore.auth
import datetime

KEY, SECRET, REGION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "eu-central-1"
CASES = [
    ("GET", "/bucket/", "", b"", None, ""),
    ("GET", "/bucket", "continuation-token=a%2Fb%3D&encoding-type=url&list-type=2&prefix=run%2F1", b"", None, ""),
    ("PUT", "/bucket/run/checkpoints/step-00000100.h5", "", b"hello", "x-amz-meta-sha256", ""),
    ("PUT", "/bucket/with%20space/%C3%A9%2B%281%29.png", "", b"\x00\xff", None, ""),
    ("POST", "/bucket/a.h5", "uploads=", b"", "x-amz-meta-sha256", ""),
    ("PUT", "/bucket/a.h5", "partNumber=7&uploadId=2~abc%2Fd%3D", b"part" * 100, None, ""),
    ("DELETE", "/bucket/a.h5", "uploadId=xyz", b"", None, ""),
    ("HEAD", "/bucket/a.h5", "", b"", None, "FQoGZXIvYXdzEBYaDtoken/with+signs=="),
    ("PUT", "/bucket/a.h5", "", b"x", "x-amz-meta-sha256", "FQoGZXIvYXdzEBYaDtoken"),
]


def main(out):
    now = datetime.datetime(2024, 2, 29, 23, 59, 58)

    class Fixed(datetime.datetime):
        @classmethod
        def utcnow(cls):
            return now

        @classmethod
        def now(cls, tz=None):
            return now
    botocore.auth.datetime = type("m", (), {"datetime": Fixed, "timezone": datetime.timezone})
    if hasattr(botocore.auth, "get_current_datetime"):
        botocore.auth.get_current_datetime = lambda *a, **k: now
    with open(out, "w", encoding="utf-8") as f:
        for method, path, query, body, meta, token in CASES:
            host = "s3.example.com:9000"
            url = f"http://{host}{path}" + (f"?{query}" if query else "")
            headers = {"host": host}
            if meta:
                headers[meta] = hashlib.sha256(body).hexdigest()
            r = AWSRequest(method=method, url=url, data=body, headers=headers)
            r.context["payload_signing_enabled"] = True
            r.context["client_config"] = None
            auth = S3SigV4Auth(Credentials(KEY, SECRET, token or None), "s3", REGION)
            auth.add_auth(r)
            payload = hashlib.sha256(body).hexdigest()
            extra = f"{meta}:{payload}" if meta else ""
            f.write("\n".join([method, path, query, host, payload, r.headers["X-Amz-Date"], extra, token, r.headers["Authorization"], "", ""]))


main(sys.argv[1] if len(sys.argv) > 1 else "tests/vectors/s3/sigv4.txt")
