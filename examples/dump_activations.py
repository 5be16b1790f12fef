"""What Hugging Face's code computes inside, under our names, for `compare --activations`.

    python dump_activations.py MODEL dump.safetensors "What is in the picture?" --image picture.png
    compare --model MODEL --activations dump.safetensors --b profile=transformers_4_56 --bound 1e-5

The file has the model's inputs (the prompt and all but the last token of the model's own greedy answer), that answer, and what
passes the taps of include/mllama/models/mllama/mllama.hpp, in float32. Needs torch, transformers, safetensors, Pillow; made for
transformers 4.57.6, whose profile is transformers_4_56.
"""

import argparse

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoProcessor, MllamaForConditionalGeneration


class Taps:
    """Hooks that keep what passes the modules of a model; rows of several pictures lie one after the other."""

    def __init__(self, model):
        self.tensors, self.hooks = {}, []
        vision, text = model.model.vision_model, model.model.language_model
        local = len(vision.transformer.layers)
        for i, layer in enumerate([*vision.transformer.layers, *vision.global_transformer.layers]):
            self.before(layer, f"vision_states.{i}")
            self.before(layer.post_attention_layernorm, f"vision_attended.{i}")
        self.after(vision.transformer, "transformer")
        self.after(vision.layernorm_post, "layernorm_post")
        self.after(vision.global_transformer, "global_transformer")
        self.after(vision, "vision_output")
        self.after(model.model.multi_modal_projector, "cross_attention_states")
        self.after(text.embed_tokens, "hidden_states.0")
        for i, layer in enumerate(text.layers):
            self.before(layer.post_attention_layernorm, f"attended.{i}")
            self.after(layer, f"hidden_states.{i + 1}")
            if hasattr(layer, "cross_attn"):
                self.after(layer.cross_attn.k_norm, f"k_norm.{i}", lambda keys: keys.transpose(1, 2).flatten(2))
                self.after(layer.cross_attn.v_proj, f"v_proj.{i}")
        self.after(text.norm, "norm")
        self.after(model.lm_head, "logits")

    def keep(self, name, value):
        self.tensors[name] = value.detach().float().reshape(-1, value.shape[-1]).contiguous()

    def before(self, module, name):
        def hook(_, args, kwargs):
            self.keep(name, args[0] if args else kwargs.get("hidden_state", kwargs.get("hidden_states")))

        self.hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def after(self, module, name, change=lambda value: value):
        def hook(_, args, output):
            self.keep(name, change(output if torch.is_tensor(output) else output[0]))

        self.hooks.append(module.register_forward_hook(hook))

    def __enter__(self):
        return self.tensors

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


@torch.no_grad()
def main(folder, path, question, image, new_tokens):
    model = MllamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"}] * bool(image) + [{"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [Image.open(image).convert("RGB")] if image else None
    inputs = dict(processor(images=images, text=text, add_special_tokens=False, return_tensors="pt"))

    length = inputs["input_ids"].shape[1]
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=new_tokens)
    answer = ids[0, length:]
    inputs["input_ids"] = ids[:, :-1]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if image:  # new rows see what the last one sees
        mask = inputs["cross_attention_mask"]
        inputs["cross_attention_mask"] = torch.cat([mask] + [mask[:, -1:]] * (len(answer) - 1), dim=1)
    with Taps(model) as taps:
        model(**inputs, use_cache=False)
    tensors = taps | inputs | {"answer_ids": answer}
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder")
    parser.add_argument("out", help="safetensors file to write")
    parser.add_argument("prompt")
    parser.add_argument("--image")
    parser.add_argument("--new-tokens", type=int, default=16, help="of the answer")
    arguments = parser.parse_args()
    main(arguments.model, arguments.out, arguments.prompt, arguments.image, arguments.new_tokens)
