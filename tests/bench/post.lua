-- wrk script: one chat completion. MODEL and KEY come from the environment.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. (os.getenv("KEY") or "sk-bench")
wrk.body = '{"model":"' .. (os.getenv("MODEL") or "mock-model") .. '","messages":[{"role":"system","content":"You are terse."},'
  .. '{"role":"user","content":"Hello there, how are you today? Please answer in one line."}],"max_tokens":64}'
