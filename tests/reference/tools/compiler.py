"""A worker: turns a text to capitals, for as long as it is asked to."""

import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    source, _, target = request["arguments"]
    with open(source) as text, open(target, "w") as out:
        out.write(text.read().upper())
    print(json.dumps({"exitCode": 0, "output": "", "requestId": request.get("requestId", 0)}), flush=True)
