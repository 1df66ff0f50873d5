"""What decides the KV beside the tokens: other values share nothing, equal ones share all."""
import pytest
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

from kveik.vllm.keys import RequestKeys
from verify import all_good

BLOCKS = 6


def image(name, offset=20, length=30):
    """An image of a prompt."""
    return MultiModalFeatureSpec(data=None, modality="image", identifier=name,
                                 mm_position=PlaceholderRange(offset, length))


def adapter(name, path="/nowhere"):
    return LoRARequest(lora_name=name, lora_int_id=1, lora_path=path)


OTHERS = {
    "salt": ({"salt": "a"}, {"salt": "b"}),
    "no-salt": ({"salt": "a"}, {}),
    "adapter": ({"lora_request": adapter("a")}, {"lora_request": adapter("b")}),
    "adapter-path": ({"lora_request": adapter("a", "/x")}, {"lora_request": adapter("a", "/y")}),
    "no-adapter": ({"lora_request": adapter("a")}, {}),
    "image": ({"mm_features": [image("a")]}, {"mm_features": [image("b")]}),
    "image-place": ({"mm_features": [image("a")]}, {"mm_features": [image("a", 21)]}),
    "image-length": ({"mm_features": [image("a")]}, {"mm_features": [image("a", 20, 31)]}),
    "no-image": ({"mm_features": [image("a")]}, {}),
    "second-image": ({"mm_features": [image("a"), image("a", 60)]},
                     {"mm_features": [image("a"), image("b", 60)]}),
}


def keys_of(engine, prompt, given):
    """Of a request that never runs."""
    asked = engine.add(prompt, 1, **given)
    keys = RequestKeys(asked.request, 16).upto(BLOCKS)
    engine.abort(asked)
    return keys


@pytest.mark.parametrize("what", OTHERS)
def test_others_share_nothing(make, prompt, what):
    """From the block on where they begin to differ."""
    engine = make()
    one, two = (keys_of(engine, prompt(1), given) for given in OTHERS[what])
    first = {"second-image": 3}.get(what, 1 if "image" in what else 0)
    assert one[:first * 32] == two[:first * 32]
    for at in range(first * 32, len(one), 32):
        assert one[at:at + 32] != two[at:at + 32]


@pytest.mark.parametrize("what", OTHERS)
def test_equals_share_all(make, prompt, what):
    engine = make()
    for given in OTHERS[what]:
        assert keys_of(engine, prompt(1), given) == keys_of(engine, prompt(1), given)


def test_salts_in_the_daemon(make, daemon, prompt):
    first = make(engine="one")
    first.add(prompt(1), 5, salt="a")
    first.run()
    for salt, hits in (("b", 0), (None, 0), ("a", 149 // 16)):
        engine = make(engine=f"reader {salt}")
        engine.add(prompt(1), 5, salt=salt)
        engine.run()
        assert engine.faults.pulled_keys == hits
        all_good(engine, daemon)


def test_images_that_a_session_adds_later_count(make, prompt):
    """A streaming session gets more input, with its images, after blocks of it were named."""
    engine = make()
    found = []
    for name in ("a", "b"):
        asked = engine.add(prompt(1, 40), 1)
        keys = RequestKeys(asked.request, 16)
        keys.upto(2)
        asked.request._all_token_ids.extend(prompt(2, 60))
        asked.request.mm_features.append(image(name, 50, 20))
        found.append(keys.upto(BLOCKS))
    assert found[0][:96] == found[1][:96]
    assert found[0][96:128] != found[1][96:128] and found[0][-32:] != found[1][-32:]
