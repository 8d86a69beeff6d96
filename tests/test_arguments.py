"""What is taken out of a command line, and that a command line without secrets is left as it is."""

from __future__ import annotations

import doctest
import shlex
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsprof.ground import command_lines as arguments
from dsprof.ground.command_lines import REMOVED, masked, secrets_among

#: Made, and visibly so.
FAKE = "FAKEsecret01"

#: One secret in every place where a command line may hold one.
FORMS = [
    "serve --token={}",
    "serve --token {}",
    "serve --password {}",
    "serve --password={}",
    "serve --api-key {}",
    "serve --api_key={}",
    "serve --hf-token {} --tokenizer path",
    "serve --ssl-keyfile-password {}",
    "serve -token {}",
    "serve --authToken={}",
    "serve --client-secret {}",
    "serve --db-pass {}",
    "serve --bearer {}",
    "serve auth.token={} model.size=7",
    "env HF_TOKEN={} python serve.py",
    "docker run -e HF_TOKEN={} image",
    "docker run --env=HF_TOKEN={} image",
    "nsys profile --env-var=A=1,HF_TOKEN={} python serve.py",
    "serve -p {}",
    "serve -p{}",
    "mysql -uroot -p{} data",
    "/usr/bin/mysqldump -p{} data",
    "sshpass -p {} ssh host",
    "docker login -u me -p {}",
    "tool --user me -p {}",
    "curl -u me:{} https://example.org",
    "curl -ume:{} https://example.org",
    "curl --user me:{} https://example.org",
    "curl --proxy-user=me:{} https://example.org",
    "serve --credentials me:{}",
    "curl https://me:{}@example.org/x",
    "curl https://:{}@example.org/x",
    "serve --store=postgres://me:{}@db.example:5432/data",
    "serve --store postgres://me:p@{}@db.example:5432/data",
    "curl https://example.org/x?token={}",
    "curl 'https://example.org/x?a=1&api_key={}&b=2'",
    "curl 'https://example.org/x?key={}'",
    "curl -H 'Authorization: Bearer {}' https://example.org",
    "curl -H 'Authorization: Basic {}' https://example.org",
    "curl -H 'Authorization: {}' https://example.org",
    "curl -H 'authorization: token {}' https://example.org",
    "curl -H Authorization: Bearer {}",
    "curl -H 'X-Api-Key: {}'",
    "curl -H X-Api-Key:{}",
    "curl '-HX-Api-Key: {}'",
    "curl --header='X-Auth-Token: {}'",
    "curl --header 'Cookie: session={}'",
    "curl -b session={} https://example.org",
    "serve --headers '{{\"Authorization\": \"Bearer {}\"}}'",
    "serve --config '{{\"api_key\": \"{}\", \"max_tokens\": 512}}'",
    "serve --config \"{{'password': '{}'}}\"",
    "serve --kv-transfer-config '{{\"kv_connector_extra_config\": {{\"auth_token\": \"{}\"}}}}'",
    "serve --loader host=example.org,password={},retries=3",
    "serve --dsn 'host=db password={} dbname=data'",
    "serve --dsn 'Server=db;Password={};Database=data'",
    "bash -c 'HF_TOKEN={} exec python serve.py --max-tokens 512'",
    "bash -c 'python serve.py --api-key {} --max-tokens 512'",
    "bash -lc \"export TOKEN='{}'; python serve.py\"",
    "bash -c 'curl -H \"X-Api-Key: {}\" https://example.org | sh'",
    "bash -c 'mysql -uroot -p{} data'",
    "python -c \"import huggingface_hub; huggingface_hub.login(token='{}')\"",
    "srun bash -c 'bash -c \"serve --token {}\"'",
]  # fmt: skip

#: Commands that people serve models with, and others, in which nothing is secret.
LEGIBLE = [
    "vllm serve meta-llama/Llama-3.1-8B-Instruct --dtype auto --max-model-len 32768 --max-num-batched-tokens 131072"
    " --max-num-seqs 256 --gpu-memory-utilization 0.92 --tensor-parallel-size 4 --enable-prefix-caching --seed 1"
    " --tokenizer /models/tok --tokenizer-mode auto --skip-tokenizer-init --served-model-name token-model --port 8000"
    " --api-key EMPTY --ssl-keyfile /etc/ssl/key.pem --ssl-certfile cert.pem --kv-cache-dtype fp8 --trust-remote-code",
    "vllm serve m -tp 2 -pp 2 -dp 8 --max-num-batched-tokens 8k --max-logprobs 20 --return-tokens-as-token-ids"
    " --enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser deepseek_r1 --disable-log-requests"
    ' --speculative-config \'{"method": "eagle", "num_speculative_tokens": 4, "model": "x/y"}\''
    ' --override-generation-config \'{"max_new_tokens": 131072, "eos_token_id": [151645, 151643]}\''
    ' --hf-overrides \'{"pad_token_id": 151643, "bos_token": "<s>", "image_token": "<image>"}\'',
    "vllm bench serve --backend vllm --base-url http://127.0.0.1:8000 --endpoint /v1/completions --dataset-name random"
    " --random-input-len 1024 --random-output-len 128 --num-prompts 100 --request-rate 4 --ignore-eos",
    "trtllm-serve /models/llama --backend pytorch --max_batch_size 64 --max_num_tokens 16384 --max_seq_len 8192"
    " --tp_size 4 --kv_cache_free_gpu_memory_fraction 0.9 --tokenizer /models/llama --extra_llm_api_options opts.yaml",
    "trtllm-build --checkpoint_dir ckpt --output_dir engine --max_num_tokens 8192 --tokens_per_block 64"
    " --gemm_plugin bfloat16 --use_paged_context_fmha enable",
    "python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp 8 --dist-init-addr"
    " 10.0.0.1:5000 --nnodes 2"
    " --node-rank 0 --trust-remote-code --mem-fraction-static 0.88 --chunked-prefill-size 8192"
    " --max-total-tokens 400000"
    " --tokenizer-path /models/tok --skip-tokenizer-init --speculative-num-draft-tokens 4 --enable-mixed-chunk"
    " --context-length 163840 --random-seed 42 --watchdog-timeout 300 --host 0.0.0.0 --port 30000"
    " --schedule-policy lpm",
    "torchrun --nnodes=2 --nproc-per-node=8 --rdzv-id=job-1234 --rdzv-backend=c10d --rdzv-endpoint=node0.example:29400"
    " --rdzv-conf timeout=900,is_host=0 --max-restarts 3 train.py --tokens-per-batch 524288 --seq-len 4096 --lr 3e-4",
    "torchrun --master_addr 10.0.0.1 --master-port=29500 --standalone generate.py --max-new-tokens 512"
    " --pad-token '<pad>'"
    " --eos-token '<|im_end|>' --stop-token-ids 151645,151643 --num-image-tokens 576 --token-dropout 0.15",
    "accelerate launch --config_file cfg.yaml --main_process_port 29501 run.py --no-auth --key-cache 4 --passes 2",
    "mpirun -np 8 -x NCCL_DEBUG=INFO -x PATH --bind-to none -H node1:8,node2:8 python run.py"
    " --multi-pass 2 --first-pass 1",
    "python -u serve.py --max-tokens 512 --tokenizer path --no-auth --key-cache 4 --seed 1 --auth none"
    " --auth-type oauth2",
    "python -m vllm.entrypoints.openai.api_server --model Qwen/Qwen2.5-VL-7B-Instruct --limit-mm-per-prompt image=4"
    " --chat-template ./template.jinja --api-key $VLLM_API_KEY --allowed-origins '[\"*\"]' --uvicorn-log-level info",
    "python -m pytest -p no:cacheprovider -p xdist -k 'token and not slow' -n 4 tests/test_tokens.py::test_password",
    "deepspeed --num_gpus 8 --master_port 29500 infer.py --use-auth-token --hf-token-path /data/hf/token --batch 4",
    "llama-server -m model.gguf -c 4096 -ngl 99 -p 'Once upon a time there was a cat' --n-predict 128 -t"
    " 8 -b 512 -ub 256",
    "docker run --rm -u 1000:1000 -p 8080:80 -p 53:53/udp -v /data:/data --env-file env.txt image:1.2 serve --port 80",
    "docker run -u me:me -p 127.0.0.1:8080:80/tcp -w /work -e CUDA_VISIBLE_DEVICES=0,1 -e OMP_NUM_THREADS=8 image",
    "ssh -p 2222 -i key.pem -L 8000:localhost:8000 me@host.example nvidia-smi",
    "env CUDA_VISIBLE_DEVICES=0 TOKENIZERS_PARALLELISM=false NCCL_P2P_DISABLE=1 MAX_TOKENS=131072"
    " EOS_TOKEN_ID=151645 run",
    "uvicorn --host 0.0.0.0 --port 80 --workers 4 --app-dir src secret_santa:app --reload",
    "gunicorn -w 4 -b 0.0.0.0:8000 -k uvicorn.workers.UvicornWorker token.server:app --keyfile k.pem",
    "git clone https://github.com/me/project.git --depth 1 && git clone git@github.com:me/token.git",
    "python -c \"import os; token = os.environ['HF_TOKEN']; password = getpass(); key = lambda row: row.start\"",
    "bash -c 'export CUDA_HOME=/usr/local/cuda; python serve.py --api-key $API_KEY --max-tokens 512 2>&1"
    " | tee log.txt'",
    "capture page.png --prompt '<image>\nWhat is the password: tell me, token=abcdef' --env HF_TOKEN"
    " --max-new-tokens 64",
    "serve --prompt-tokens 512 --password-file pass.txt --token-file /run/secrets/token --secret-name db"
    " --token-type jwt",
    "serve --password --verbose --token -v --print-tokens --stream-tokens yes --skip-special-tokens m --tokens 1,2,3",
    "serve '--prompt=What is the password: tell me, token=abcdef' '--system-prompt=secret: none of it'",
    "serve --header 'Content-Type: application/json' --header 'Accept: */*' -H 'X-Request-Id: 17'",
    "mkdir -p /tmp/a/b && cp -p a b && make -pn && gcc -pthread -pipe -O2 a.c && xargs -P 4",
    "genai-perf profile -m m --service-kind openai --endpoint-type chat --synthetic-input-tokens-mean"
    " 2000 --tokenizer x/y"
    " --output-tokens-stddev 0 --concurrency 8 --extra-inputs max_tokens:200 --extra-inputs ignore_eos:true",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_on_a_command_line_is_taken_out(form: str) -> None:
    words = shlex.split(form.format(FAKE))
    assert FAKE not in " ".join(masked(words))
    assert REMOVED in " ".join(masked(words))
    assert any(FAKE in found for found in secrets_among(words))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_around_a_secret_stays(form: str) -> None:
    """What is taken out is the secret, and not the words around it: as many words, and no other text gone."""
    words, kept = shlex.split(form.format(FAKE)), masked(shlex.split(form.format(FAKE)))
    assert len(kept) == len(words)
    for before, after in zip(words, kept, strict=True):
        left, _, right = after.partition(REMOVED)
        assert before == after or (before.startswith(left) and before.endswith(right))


@pytest.mark.parametrize("command", LEGIBLE)
def test_a_command_line_without_secrets_is_left_as_it_is(command: str) -> None:
    words = tuple(shlex.split(command))
    assert masked(words) == words
    assert secrets_among(words) == ()


#: As passwords and tokens are made: long enough, of letters and digits, and of signs that stay in one word.
SECRETS = st.tuples(
    st.sampled_from(string.ascii_uppercase),
    st.text(string.ascii_letters + string.digits + "_-.~+/", min_size=8, max_size=40),
    st.sampled_from(string.digits),
).map("".join)
HARMLESS = st.lists(st.sampled_from([word for line in LEGIBLE for word in shlex.split(line)]), max_size=6)
#: Forms that say by themselves that a password comes; a bare -p does so only for what looks like one.
CERTAIN = [form for form in FORMS if not form.startswith("serve -p")]


@given(before=HARMLESS, form=st.sampled_from(CERTAIN), secret=SECRETS, after=HARMLESS)
def test_no_secret_stays_among_any_words(before: list[str], form: str, secret: str, after: list[str]) -> None:
    if "/" in secret and ("://" in form or "-u" in form):
        secret = secret.replace("/", "x")  # it would end the name of the host there
    words = [*before, *shlex.split(form.format(secret)), *after]
    if any("prompt" in word for word in before[-1:]):
        words = words[len(before) :]  # what follows is then the user's own text
    kept = masked(words)
    assert secret not in " ".join(kept)
    assert masked(kept) == kept


@given(st.lists(st.text(max_size=60), max_size=8))
def test_any_words_stay_as_many_and_what_is_masked_stays_so(words: list[str]) -> None:
    kept = masked(words)
    assert len(kept) == len(words)
    assert masked(kept) == kept
    for secret in secrets_among(words):
        assert any(secret in word for word in words)


def test_the_examples_of_the_module() -> None:
    assert doctest.testmod(arguments).failed == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part",
    ["a", "a=", "a.", "a-", "=", "x=y|", "token=", "--token ", "'", '"a": "', "eyJ-", "a://", "a:", "-p", "$(", "\\"],
)
def test_the_longest_words_are_judged_in_time(part: str) -> None:
    """The kernel passes words of up to 128 KiB on; each is gone over a few times, however its parts nest."""
    word = part * (131_072 // len(part))
    assert len(masked([word, "--token", word, word])) == 4
