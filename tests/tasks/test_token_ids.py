import os

import pytest
import torch

from frontrunner import files
from frontrunner.tasks import token_ids as module
from frontrunner.tasks.tiny_llama import plain_ids, train_tokenizer

TEXT = "words and 123 words\n" * 400


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FRONTRUNNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LONG", 1000)
    return tmp_path / "cache" / "tokens"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], 300)


@pytest.fixture
def asked(monkeypatch):
    """How often a text was tokenised."""
    calls = []

    def counted(tokenizer):
        calls.append(1)
        return plain_ids(tokenizer)

    monkeypatch.setattr(module, "plain_ids", counted)
    return calls


def test_a_long_text_is_tokenised_once(cache, tokenizer, asked) -> None:
    first, again = (module.token_ids(tokenizer, TEXT) for _ in range(2))
    assert len(asked) == 1
    assert torch.equal(first, again)
    assert first.dtype == again.dtype == torch.int64
    assert first.tolist() == plain_ids(tokenizer)(TEXT)


def test_another_text_or_tokenizer_has_ids_of_its_own(cache, tokenizer, asked) -> None:
    module.token_ids(tokenizer, TEXT)
    module.token_ids(tokenizer, TEXT + "more")
    module.token_ids(train_tokenizer([TEXT], 300, digits=True), TEXT)
    assert len(asked) == 3
    assert len(list(cache.iterdir())) == 3


def test_a_short_text_is_not_kept(cache, tokenizer) -> None:
    module.token_ids(tokenizer, TEXT[:900])
    assert not cache.exists()


def test_what_is_cut_off_is_made_again(cache, tokenizer, asked) -> None:
    whole = module.token_ids(tokenizer, TEXT)
    (path,) = cache.iterdir()
    for left in (0, 40, path.stat().st_size - 8):
        os.truncate(path, left)
        assert torch.equal(module.token_ids(tokenizer, TEXT), whole)
    assert len(asked) == 4


def test_a_cache_that_cannot_be_written_is_no_error(cache, tokenizer, monkeypatch) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder belongs")
    assert len(module.token_ids(tokenizer, TEXT)) > 0
    assert files.cache_dir() == cache.parent


def test_a_tokenizer_that_cannot_be_written_down_keeps_none(cache, asked) -> None:
    def slow(text, **_):
        return {"input_ids": [1, 2, 3]}

    assert module.token_ids(slow, TEXT).tolist() == [1, 2, 3]
    assert not cache.exists()
