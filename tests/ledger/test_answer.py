"""What is answered: the same figures in every form."""

from __future__ import annotations

from routerd.ledger import Period, as_csv, as_text, usage_answer

ROWS = [("up", "x", 1200, 1199, 1, 34567, 890, 12, 3, 1_234_567_891), ("up", "", 1, 0, 0, 0, 0, 0, 0, 0)]


def test_rows_have_names_and_a_total() -> None:
    answer = usage_answer("model", Period(0, 86_400_000), ROWS, 3)
    row = answer["rows"][0]
    assert [row[name] for name in ("provider", "model", "requests", "cost_nano_usd")] == ["up", "x", 1200, 1_234_567_891]
    assert (answer["total"]["requests"], answer["total"]["cost_usd"]) == (1201, 1.234567891)
    assert (answer["since"], answer["until"], answer["pending"]) == (None, "1970-01-02T00:00:00Z", 3)


def test_the_table_is_for_people() -> None:
    text = as_text(usage_answer("model", Period(0, 86_400_000), ROWS, 3))
    assert text == (
        "provider  model  requests     ok   input  output  cached  reasoning  estimated  cost USD\n"
        "up        x         1,200  1,199  34,567     890      12          3          1  1.234568\n"
        "up        -             1      0       0       0       0          0          0  0.000000\n"
        "total     -         1,201  1,199  34,567     890      12          3          1  1.234568\n"
        "from the beginning to 1970-01-02T00:00:00Z (UTC); 3 requests are not written yet and not in here\n"
    )


def test_csv_is_exact() -> None:
    assert as_csv(usage_answer("model", Period(), ROWS)).splitlines() == [
        "provider,model,requests,ok,input_tokens,output_tokens,cached_tokens,reasoning_tokens,estimated,cost_usd",
        "up,x,1200,1199,34567,890,12,3,1,1.234567891",
        "up,,1,0,0,0,0,0,0,0.000000000",
    ]


def test_credits_stand_below_the_clients() -> None:
    credits = [
        {"client": "ann", "kind": "tokens", "granted": 1000000, "used": 1, "left": 999999, "since": None},
        {"client": "bob", "kind": "usd", "granted": 20.0, "used": 0.5, "left": 19.5, "since": "2026-01-01"},
    ]
    text = as_text({**usage_answer("client", Period(), []), "credits": credits})
    assert text.splitlines()[-3:-1] == [
        "credit of ann: 999,999 of 1,000,000 tokens left",
        "credit of bob: 19.500000 of 20.000000 usd left since 2026-01-01",
    ]
    assert "credit of" not in as_text({**usage_answer("day", Period(), []), "credits": credits})
