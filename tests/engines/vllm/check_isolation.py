"""What decides the KV besides tokens keeps prompts apart: adapters (LoRA) and cache salts."""
import dataclasses

from compare import all_answered, all_counted, judge
from engine import EngineFailed
from workload import fresh

SEED = 101
TOKENS = 700
FOUND = 640  # of them: whole blocks


def ask(row, engine, name, request, wanted):
    """One request, and what it must hit."""
    answer = engine.generate([request])
    all_answered(row, name, [request], answer)
    got = answer[request.id].cached
    row.expect(got == wanted, f"{name}: hit {got} tokens, expected {wanted}")
    return answer


def salts(lab):
    """Salts never share, and find their own."""
    row = lab.row("salt")
    plain = fresh(SEED, [TOKENS])[0]
    salted = {salt: dataclasses.replace(plain, id=f"salt {salt}", salt=salt)
              for salt in ("one", "two")}
    base = lab.answers([plain], dtype="float32")[plain.id]
    engine = lab.up(lab.daemon(), dtype="float32")
    order = [(salted["one"], 0), (salted["two"], 0), (plain, 0), (salted["one"], FOUND),
             (salted["two"], FOUND), (plain, FOUND)]
    for turn, (request, wanted) in enumerate(order):
        name = f"turn {turn}, {request.salt or 'no salt'}"
        answer = ask(row, engine, name, request, wanted)[request.id]
        row.expect(answer.tokens == base.tokens, f"{name}: other tokens")
    all_counted(row, engine, "salts")
    row.say(f"{len(order)} requests: two salts and none miss each other, and hit themselves")
    return row


def adapters(lab):
    """Adapters never share, and find their own."""
    row = lab.row("lora")
    lora = {"dtype": "float32", "enable_lora": True, "max_loras": 2, "max_lora_rank": 8}
    plain = fresh(SEED + 1, [TOKENS])[0]
    with_adapter = [dataclasses.replace(plain, id=f"adapter{number}", adapter=(
        number, str(lab.model(f"adapter{number}")))) for number in (1, 2)]
    requests = [*with_adapter, plain]
    try:
        base = {}
        with lab.engine(**lora) as plain:
            plain.wait_up()
            for request in requests:  # one by one, as below
                base |= plain.generate([request])
    except EngineFailed as error:
        row.cannot = f"vLLM itself, without Kveik: {str(error).splitlines()[0][:200]}"
        return row
    different = len({tuple(one.tokens) for one in base.values()})
    row.expect(different == len(requests), "adapters do not change the answer: this shows nothing")
    engine = lab.up(lab.daemon(), **lora)
    for turn, wanted in (("first", 0), ("second", FOUND)):
        answers = {}
        for request in requests:
            answers |= ask(row, engine, f"{turn} time, {request.id}", request, wanted)
        judge(row, f"{turn} time", base, answers)
    all_counted(row, engine, "adapters")
    row.say("two adapters and none miss each other, and hit themselves")
    return row


def run(lab):
    """Two rows."""
    yield salts(lab)
    yield adapters(lab)
