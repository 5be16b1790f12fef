"""Transformers 4.57.6 with the numbers of another profile.

Releases of transformers disagree with Meta's own code on two points: which state of the local vision encoder
`intermediate_layers_indices` means, and whether a text token that may see no picture takes part in cross-attention. `meta` is
what the published weights were trained with; `transformers_4_56` is the installed release as it is.
"""

from contextlib import contextmanager

from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mllama import modeling_mllama as hf

PROFILES = {  # name: (intermediate state is the layer's input, masked rows are zeroed)
    "meta": (True, True),
    "transformers_4_45": (True, False),
    "transformers_4_56": (False, False),
    "meta_rows": (False, True),
}


def encoder_forward(self, hidden_states, attention_mask=None):
    """`hidden_states[i]` is what enters layer i, not what leaves it."""
    states = (hidden_states,)
    for layer in self.layers:
        hidden_states = layer(hidden_state=hidden_states, attention_mask=attention_mask)
        states += (hidden_states,)
    return BaseModelOutput(last_hidden_state=hidden_states, hidden_states=states)


def cross_layer_forward(
    self, hidden_states, cross_attention_states, cross_attention_mask, attention_mask, full_text_row_masked_out_mask,
    position_ids=None, past_key_values=None, use_cache=False, cache_position=None, position_embeddings=None, **kwargs,
):  # fmt: skip
    """The attention branch, not only the MLP branch, is zeroed in rows that may see no picture."""
    attended, _ = self.cross_attn(
        hidden_states=self.input_layernorm(hidden_states), attention_mask=cross_attention_mask,
        cross_attention_states=cross_attention_states, past_key_values=past_key_values, cache_position=cache_position, **kwargs,
    )  # fmt: skip
    sees = 1 if full_text_row_masked_out_mask is None else full_text_row_masked_out_mask[:, 0]
    hidden_states = hidden_states + self.cross_attn_attn_gate.tanh() * (sees * attended)
    mlp = self.mlp(self.post_attention_layernorm(hidden_states))
    return hidden_states + self.cross_attn_mlp_gate.tanh() * (sees * mlp)


@contextmanager
def apply(profile):
    """Within this context transformers computes by a profile."""
    from_input, zero_rows = PROFILES[profile]
    saved = hf.MllamaVisionEncoder.forward, hf.MllamaCrossAttentionDecoderLayer.forward
    if from_input:
        hf.MllamaVisionEncoder.forward = encoder_forward
    if zero_rows:
        hf.MllamaCrossAttentionDecoderLayer.forward = cross_layer_forward
    try:
        yield
    finally:
        hf.MllamaVisionEncoder.forward, hf.MllamaCrossAttentionDecoderLayer.forward = saved
