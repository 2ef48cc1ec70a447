"""The systems of the field as points on the same axes: views, target, head, distance, what prevents collapse.

``SYSTEMS`` is the one list of them, in the order of their years; ``worldmodel objectives`` prints it. A system's
settings are ``configs/objective/<name>.yaml`` (or, for world models, the configuration that ``command`` names).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        name: ``objective=<name>`` of ``worldmodel pretrain``.
        title: As papers call it.
        year: Of the first publication.
        paper: arXiv number, or journal.
        views: What the loss compares, or what is hidden from whom.
        target: Where targets come from.
        gradient: Whether gradients reach the target: "no", "yes", or "-" where it is data.
        head: What is between the encoder and the distance.
        distance: Of prediction and target.
        collapse: What prevents collapse.
        command: How it is trained; empty: ``worldmodel pretrain objective=<name>``.
    """

    name: str
    title: str
    year: int
    paper: str
    views: str
    target: str
    gradient: str
    head: str
    distance: str
    collapse: str
    command: str = ""

    @property
    def option(self) -> bool:
        """Whether it is an option of ``objective=`` of ``worldmodel pretrain``."""
        return not self.command

    @property
    def run(self) -> str:
        """The command that trains it."""
        return self.command or f"worldmodel pretrain objective={self.name}"


_CROPS = "two augmented crops"

SYSTEMS: tuple[System, ...] = (
    System("emulator", "Emulator network", 1987, "Werbos; Nguyen & Widrow",
        "state and action -> next state", "online encoder", "yes", "MLP dynamics", "L2", "SIGReg",
        "worldmodel train dynamics=mlp"),
    System("recurrent", "Recurrent world model", 1990, "FKI-126-90", "past and action -> next latent",
        "online encoder", "yes", "GRU dynamics", "L2", "variance and covariance",
        "worldmodel train method=recurrent"),
    System("pmin", "PMIN (predictability minimisation)", 1992, "Neural Comp. 4(6)",
        "each unit from the others", "online encoder", "yes", "a predictor for each unit",
        "L2, maximised by the encoder", "adversarial: it is such a term"),
    System("imax", "IMAX", 1992, "Nature 355:161", "two neighbouring parts of a clip", "online encoder",
        "yes", "projector", "Gaussian mutual information", "the objective itself"),
    System("pmax", "PMAX", 1993, "Neural Comp. 5(4)", "two views, an encoder for each",
        "the other encoder", "yes", "predictor", "L2", "variance, reconstruction, infomax or PMIN"),
    System("siamese", "Siamese contrastive", 1993, "Bromley et al.; Hadsell et al. 2006",
        "pairs, shared weights", "online encoder", "yes", "projector", "margin", "negatives"),
    System("denoising", "Denoising autoencoder", 2008, "Vincent et al.", "noised clip -> clip", "pixels",
        "-", "decoder", "L2", "pixels"),
    System("vae", "Variational autoencoder", 2014, "1312.6114", "clip -> clip", "pixels", "-", "decoder",
        "L2 + KL", "pixels"),
    System("context_prediction", "Context prediction", 2015, "1505.05192",
        "two patches -> which of 8 offsets", "offset", "-", "classifier", "cross-entropy",
        "labels from the data"),
    System("temporal_order", "Temporal order", 2016, "1603.08561", "frames of a clip -> their order",
        "order", "-", "classifier", "cross-entropy", "labels from the data"),
    System("colorization", "Colorization", 2016, "1603.08511", "grey clip -> colours", "quantised ab bins",
        "-", "classifier", "cross-entropy, rebalanced", "labels from the data"),
    System("context_encoder", "Context encoder", 2016, "1604.07379", "clip with a hole -> the hole",
        "pixels", "-", "decoder", "L2", "pixels"),
    System("jigsaw", "Jigsaw", 2016, "1603.09246", "shuffled patches -> permutation", "permutation", "-",
        "classifier", "cross-entropy", "labels from the data"),
    System("rotation", "Rotation", 2018, "1803.07728", "turned clip -> by how much",
        "0, 90, 180 or 270 degrees", "-", "classifier", "cross-entropy", "labels from the data"),
    System("cpc", "CPC", 2018, "1807.03748", "past -> later latents", "online encoder", "yes",
        "autoregressive context, bilinear critics", "InfoNCE", "negatives"),
    System("moco", "MoCo", 2020, "1911.05722", _CROPS, "EMA encoder", "no", "projector", "InfoNCE",
        "queue of negatives"),
    System("simclr", "SimCLR", 2020, "2002.05709", _CROPS, "online encoder", "yes", "projector", "NT-Xent",
        "negatives"),
    System("byol", "BYOL", 2020, "2006.07733", _CROPS, "EMA encoder", "no", "projector, MLP predictor",
        "cosine", "EMA, stop-gradient, predictor"),
    System("swav", "SwAV", 2020, "2006.09882", "multi-crop", "codes of the other view", "no",
        "projector, prototypes", "cross-entropy", "Sinkhorn equipartition"),
    System("simsiam", "SimSiam", 2021, "2011.10566", _CROPS, "online encoder", "no",
        "projector, MLP predictor", "cosine", "stop-gradient, predictor"),
    System("barlow_twins", "Barlow Twins", 2021, "2103.03230", _CROPS, "online encoder", "yes",
        "projector", "cross-correlation", "cross-correlation to identity"),
    System("moco_v3", "MoCo v3", 2021, "2104.02057", _CROPS, "EMA encoder", "no",
        "projector, MLP predictor", "InfoNCE", "negatives"),
    System("dino", "DINO", 2021, "2104.14294", "small and large crops -> large crops", "EMA encoder", "no",
        "prototypes", "cross-entropy", "centring and sharpening"),
    System("beit", "BEiT", 2022, "2106.08254", "hidden patches", "discrete tokens", "-", "classifier",
        "cross-entropy", "fixed tokens"),
    System("mae", "MAE", 2022, "2111.06377", "hidden patches", "pixels", "-", "transformer decoder", "L2",
        "pixels"),
    System("ibot", "iBOT", 2022, "2111.07832", "crops, and hidden patches", "EMA encoder", "no",
        "prototypes", "cross-entropy", "centring and sharpening"),
    System("data2vec", "data2vec", 2022, "2202.03555", "hidden patches",
        "mean of the EMA encoder's top layers", "no", "mask tokens in the encoder", "smooth L1",
        "EMA, normalised targets"),
    System("videomae", "VideoMAE", 2022, "2203.12602", "hidden tubes", "pixels", "-",
        "transformer decoder", "L2", "pixels"),
    System("vicreg", "VICReg", 2022, "2105.04906", _CROPS, "online encoder", "yes", "projector", "L2",
        "variance and covariance"),
    System("vjepa_variance", "JEPA with VICReg's terms", 2022, "position paper, sec. 4.5",
        "hidden tubes", "online encoder", "yes", "transformer predictor", "L1", "variance and covariance"),
    System("cmae", "CMAE", 2022, "2207.13532", "hidden patches, and a second view", "pixels, EMA encoder",
        "no", "decoders, projector", "L2 + InfoNCE", "pixels and negatives"),
    System("dbot", "dBOT", 2022, "2209.03735", "hidden patches", "frozen teacher, renewed in stages", "no",
        "transformer decoder", "smooth L1", "fixed targets"),
    System("hierarchical", "Hierarchical JEPA", 2022, "position paper",
        "latent and macro-action -> later latent", "latents of a world model", "no", "slow dynamics", "L2",
        "frozen world model", "worldmodel train_slow"),
    System("tokenizer", "Tokenizer for BEiT", 2023, "2310.05737", "clip -> clip", "pixels", "-",
        "signs of a few numbers, decoder", "L2", "pixels"),
    System("ijepa", "I-JEPA", 2023, "2301.08243", "one block -> four blocks", "EMA encoder", "no",
        "transformer predictor", "smooth L1", "EMA and predictor"),
    System("hybrid", "Hybrid distillation", 2023, "2306.15876", "hidden patches",
        "pixels, contrastive teacher", "no", "decoder, projector", "L2 + smooth L1", "pixels and teacher"),
    System("vjepa", "V-JEPA", 2024, "2404.08471", "hidden tubes", "EMA encoder", "no",
        "transformer predictor", "L1", "EMA and predictor"),
    System("vjepa_uniformity", "JEPA with uniformity", 2024, "Mo et al.", "hidden tubes", "EMA encoder",
        "no", "transformer predictor", "L1", "uniformity"),
    System("vjepa2", "V-JEPA 2", 2025, "2506.09985", "hidden tubes", "EMA encoder", "no",
        "transformer predictor", "L1", "EMA and predictor", "worldmodel pretrain recipe=vjepa2_vitl16"),
    System("vjepa2_ac", "V-JEPA 2-AC", 2025, "2506.09985", "latents and actions -> next latent",
        "frozen encoder", "no", "block-causal dynamics", "L1", "frozen encoder",
        "worldmodel train method=vjepa2_ac"),
    System("lejepa", "LeJEPA", 2025, "2511.08544", "small and large crops -> large crops",
        "online encoder", "yes", "projector", "L2", "SIGReg"),
    System("lewm", "LeWorldModel", 2026, "2603.19312", "latents and actions -> next latent",
        "online encoder", "yes", "causal dynamics", "L2", "SIGReg", "worldmodel train method=lewm"),
)  # fmt: skip
