-- For wrk: answers that keep the engine busy, each of 64 tokens.
wrk.method = "POST"
wrk.body = '{"prompt": "Once upon a time", "max_tokens": 64, "ignore_eos": true}'
wrk.headers["Content-Type"] = "application/json"
