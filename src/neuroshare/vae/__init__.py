"""The multimodal VAE core: tensors in, tensors out. It knows nothing of spikes, rats or labels.

Notation, as in the papers: a *modality* m has data x_m, an encoder q_m = N(loc_m, diag(scale_m^2))
and a decoder p(x_m | z). Tensors have dims (modality, sample, latent); what decoders are fed has
one more, (modality, draw, sample, latent), for mixture components and Monte Carlo draws.
"""
