"""vLLM as an engine, on the GPUs that the job sees."""

import os
from pathlib import Path

from moult.base.errors import UserError
from moult.data.prompts import videos_of
from moult.inference.engines.base import Engine
from moult.inference.requests import CompletionRequest


class VllmEngine(Engine):
    """vLLM on the GPUs that the job sees."""

    # vLLM packs its own batches; this is how many rows it is given, and a journal can keep, at a time.
    batch_size = 512

    def __init__(self, folder: str | Path, dtype: str, several: bool = False) -> None:
        # Scheduling in this process is reproducible.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            import vllm
        except ImportError:
            raise UserError("engine vllm: is not installed here; install it, or write engine: transformers.") from None
        import torch

        super().__init__(folder)
        self.llm = vllm.LLM(
            model=str(folder),
            dtype=dtype,
            tensor_parallel_size=torch.cuda.device_count(),
            seed=0,
            # The model's own sampling must not leak in.
            generation_config="vllm",
            # vLLM has returned stale prompt log-probabilities where a prefix was cached; answers have none.
            enable_prefix_caching=several,
            # Free blanks between the parts of a reply would use up its tokens.
            structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
        )
        # Scoring a label generates one token more.
        self.limit = self.llm.llm_engine.model_config.max_model_len - 1

    def close(self) -> None:
        if self.llm:
            # The engine's core holds weights and cache, here or in processes of its own, whoever refers to the engine.
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            from vllm.distributed import cleanup_dist_env_and_memory

            # Groups of processes hold buffers, and objects that vLLM has frozen are never collected.
            cleanup_dist_env_and_memory()
        super().close()

    def _complete(self, prompts, requests):
        outputs = self._run(prompts, [self._settings(request) for request in requests], requests)
        return [(list(output.outputs[0].token_ids), None) for output in outputs]

    def _settings(self, request):
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        structure = None
        if request.choices is not None:
            structure = StructuredOutputsParams(choice=[self._blanks + one for one in request.choices])
        elif request.schema is not None:
            structure = StructuredOutputsParams(json=request.schema)
        sampling = request.sampling
        if sampling.beams > 1:
            raise UserError("beam search needs engine transformers; with vllm choose by minimum Bayes risk.")
        until = list(getattr(request, "until", ()))
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=sampling.max_tokens,
            seed=request.seed,
            stop=until or None,
            stop_token_ids=self.ends if isinstance(request, CompletionRequest) else self.stops,
            structured_outputs=structure,
            # Strings are looked for in the text.
            detokenize=bool(until),
        )

    def _score(self, prompts, labels, requests):
        from vllm import SamplingParams

        settings = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1, detokenize=False)
        pairs = [(prompt, label) for prompt, row in zip(prompts, labels, strict=True) for label in row]
        shown = requests or [None] * len(prompts)
        asked = [request for request, row in zip(shown, labels, strict=True) for _ in row]
        outputs = self._run([prompt + label for prompt, label in pairs], [settings] * len(pairs), asked)
        scores = []
        for output, (_, label) in zip(outputs, pairs, strict=True):
            seen = [found[token] for found, token in zip(output.prompt_logprobs[-len(label) :], label, strict=True)]
            scores.append((sum(one.logprob for one in seen), all(one.rank == 1 for one in seen)))
        left = iter(scores)
        return [[next(left) for _ in row] for row in labels]

    def _run(self, prompts, settings, requests):
        shown = [videos_of(request.messages) if request else [] for request in requests]
        inputs = [self._input(ids, videos) for ids, videos in zip(prompts, shown, strict=True)]
        return self.llm.generate(inputs, settings, use_tqdm=False)

    def _input(self, ids, videos):
        """Return one prompt as vLLM takes it; it puts in the placeholders of a video itself."""
        if not videos:
            return {"prompt_token_ids": ids}
        pictures = [self.vision.frames.pictures(seen) for seen in videos]
        # The frames are chosen and sized already.
        settings = {"do_resize": False, "do_sample_frames": False}
        return {
            "prompt_token_ids": self.vision.collapse(ids),
            "multi_modal_data": {"video": pictures},
            "mm_processor_kwargs": settings,
        }
