"""The codec on a hand-made tokenizer of single characters: nothing that a message says becomes a special token."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from configs.errors import EngineError
from stages.models.chat_codec import ChatCodec
from stages.models.protocol import ChatMessage

START, STOP, PAD = "<|im_start|>", "<|im_end|>", "<pad>"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and not loop.first %}{{ raise_exception('system must come first') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory without weights."""
    folder = tmp_path_factory.mktemp("model")
    characters = ["?", *(chr(code) for code in (10, *range(32, 63), *range(64, 127)))]
    tokenizer = Tokenizer(WordLevel({c: i for i, c in enumerate(characters)}, unk_token="?"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in (START, STOP, PAD)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": STOP, "pad_token": {"content": PAD}}))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": tokenizer.token_to_id(PAD)}))
    return folder


@pytest.fixture(scope="module")
def codec(directory: Path) -> ChatCodec:
    return ChatCodec(directory)


def _id(codec: ChatCodec, token: str) -> int:
    found = codec._tokenizer.token_to_id(token)
    assert found is not None
    return int(found)


def test_a_chat_is_rendered_with_its_generation_prompt(codec: ChatCodec) -> None:
    ids = codec.encode([ChatMessage("system", "Be brief."), ChatMessage("user", "2 + 2")])
    text = "".join(codec._tokenizer.id_to_token(token) for token in ids)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 + 2<|im_end|>\n<|im_start|>assistant\n"
    )


_ATTACKS = st.lists(st.sampled_from([START, STOP, PAD, "<", "|", "im_end", "|>", ">", " ", "x", "\n"]), max_size=12)


@given(_ATTACKS.map("".join))
def test_no_content_becomes_a_special_token(codec: ChatCodec, content: str) -> None:
    plain = codec.encode([ChatMessage("user", "x"), ChatMessage("assistant", "x")])
    forged = codec.encode([ChatMessage("user", content), ChatMessage("assistant", content)])
    for token in (START, STOP, PAD):
        assert forged.count(_id(codec, token)) == plain.count(_id(codec, token))


def test_escaping_breaks_special_tokens_and_nothing_else(codec: ChatCodec) -> None:
    assert codec.escape("a<|im_end|>b") == "a< |im_end|>b"
    assert codec.escape("a < b |> c <|im_en") == "a < b |> c <|im_en"
    assert codec.escape("\ud800") == "?"  # half of a surrogate pair: no tokenizer takes it
    assert codec.escape(codec.escape("<pad>")) == codec.escape("<pad>") == "< pad>"


def test_decoding_drops_one_final_end_token(codec: ChatCodec) -> None:
    a, start, stop, pad = (_id(codec, token) for token in ("a", START, STOP, PAD))
    assert codec.end_token_ids == {stop, pad}  # the model's end token, and the tokenizer's own
    assert codec.decode([a, stop]) == codec.decode([a, pad]) == codec.decode([a]) == "a"
    assert codec.decode([a, start, stop, a]) == "a<|im_start|><|im_end|>a"
    assert codec.decode([a, stop, stop]) == "a<|im_end|>"
    assert codec.decode([]) == ""


@pytest.mark.parametrize("begins", [False, True])
def test_a_prompts_text_becomes_its_token_ids_again(directory: Path, tmp_path: Path, begins: bool) -> None:
    # where the tokenizer begins every text with a token of its own, a template that writes it too must not double it
    shutil.copytree(directory, tmp_path / "model")
    if begins:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer.post_processor = TemplateProcessing("<pad> $A", special_tokens=[(PAD, tokenizer.token_to_id(PAD))])
        tokenizer.save(str(tmp_path / "model/tokenizer.json"))
        (tmp_path / "model/chat_template.jinja").write_text(PAD + TEMPLATE)
    codec = ChatCodec(tmp_path / "model")
    ids = codec.encode([ChatMessage("user", "2 + 2")])
    text = codec.prompt_text(ids)
    assert text == "<|im_start|>user\n2 + 2<|im_end|>\n<|im_start|>assistant\n"
    loaded = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "model/tokenizer.json"))
    assert loaded(text)["input_ids"] == ids
    assert (ids[0] == _id(codec, PAD)) is begins


def test_a_chat_that_the_template_refuses_is_an_engine_error(codec: ChatCodec) -> None:
    with pytest.raises(EngineError, match="refuses the turns user, system: system must come first"):
        codec.encode([ChatMessage("user", "a"), ChatMessage("system", "b")])


def test_a_model_without_a_chat_template_is_refused(directory: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    with pytest.raises(EngineError, match="no chat template"):
        ChatCodec(tmp_path)


def test_keys_and_prompts_need_no_torch(directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stages.models.chat_codec import ChatCodec; "
        "from stages.runtime.device import resolved_device, resolved_dtype; "
        "import stages.models.adapter_files, stages.learners.scoring.packing; "
        f"ChatCodec(Path({str(directory)!r})).encode([]); resolved_dtype('auto', resolved_device('auto')); "
        "assert not {'torch', 'transformers', 'peft'} & sys.modules.keys()"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
