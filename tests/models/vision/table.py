"""Every vision model that is tested: how it is built, which image sizes it runs at, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.models.vision.layers import settled

DYNAMIC = {0: "batch", 2: "height", 3: "width"}


@dataclass(frozen=True)
class VisionModel:
    """A row of the table: images [batch, 3, height, width] → ``outputs``.

    ``sizes`` are the image sizes that one artifact is run at, the first also that of the export; with one size, height and width are fixed.
    ``candidates`` is for detectors, whose outputs are boxes, scores, labels and images: how many boxes (of each label) they choose from, for an
    image of the first size. All of an ``extended`` model is in another one too,
    or it takes minutes.
    """

    build: Callable[[], nn.Module]
    sizes: tuple[tuple[int, int], ...] = ((160, 192), (224, 160))
    candidates: int = 0
    extended: bool = False

    @property
    def dynamic_shapes(self) -> dict[str, dict[int, str]]:
        """What :func:`ingot.export.export_module` takes."""
        return {"images": DYNAMIC if len(self.sizes) > 1 else {0: "batch"}}


def _yolo() -> nn.Module:
    from tests.models.vision.yolo import Yolo

    heads = {f"heads.{i}.{part}.2": wanted for i in range(3) for part, wanted in (("box", (1.5, 0.0)), ("label", (1.4, -6.0)))}
    return settled(Yolo, (160, 192), heads, lambda module, x: module.candidates(x))  # type: ignore[operator]


def _ssd() -> nn.Module:
    from tests.models.vision.ssd import Ssd

    heads = {f"{part}.{i}": wanted for i in range(6) for part, wanted in (("boxes", (1.0, 0.0)), ("labels", (1.2, 0.0)))}
    return settled(lambda: Ssd(width=24, depths=(1, 1, 2, 1, 1)), (320, 288), heads, lambda module, x: module.candidates(x))  # type: ignore[operator]


def _rcnn(masks: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from tests.models.vision.rcnn import FasterRcnn

        heads = ({"proposals.score": (2.0, 0.0), "proposals.box": (0.3, 0.0)}, {"label": (1.5, 0.0), "box": (0.5, 0.0)})
        return settled(lambda: FasterRcnn(masks, blocks=(1, 1, 1, 2)), (160, 192), heads)

    return build


def _unet() -> nn.Module:
    from tests.models.vision.unet import UNet

    return settled(lambda: UNet(width=16), (160, 192))


def _deeplab() -> nn.Module:
    from tests.models.vision.deeplab import DeepLab

    return settled(lambda: DeepLab(width=32, channels=64, blocks=(1, 1, 1, 2)), (160, 192))


class Named(nn.Module):
    """A model of transformers: images → some of its results; more arguments are fixed."""

    exported_prefix = "model."

    def __init__(self, model: nn.Module, *names: str, **fixed: Any) -> None:
        super().__init__()
        self.model, self.names, self.fixed = model, names, fixed

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        results = self.model(pixel_values=images, **self.fixed)
        return {name: getattr(results, name) for name in self.names}


class Scores(nn.Module):
    """A classifier whose result is a tensor: images → its scores."""

    exported_prefix = "model."

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.model(images)}


class QueryDetector(nn.Module):
    """DETR, RT-DETR and YOLOS with what comes after them: labels, scores above a threshold, boxes in pixels."""

    exported_prefix = "model."

    def __init__(self, model: nn.Module, background: bool, threshold: float) -> None:
        super().__init__()
        self.model, self.background, self.threshold = model, background, threshold

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        results = self.model(pixel_values=images)
        scores, labels = (results.logits.softmax(2)[..., :-1] if self.background else results.logits.sigmoid()).max(2)
        middle, half = results.pred_boxes[..., :2], results.pred_boxes[..., 2:] / 2
        scale = torch.tensor([images.shape[3], images.shape[2]] * 2)
        boxes = torch.cat([middle - half, middle + half], 2) * scale
        image, query = torch.nonzero(scores > self.threshold).unbind(1)
        return {"boxes": boxes[image, query], "scores": scores[image, query], "labels": labels[image, query], "images": image}


def _resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256], depths=[2, 1, 2], layer_type="basic", num_labels=1000)
    return settled(lambda: Named(ResNetForImageClassification(config), "logits"), (160, 192))


def _mobilenet() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    def build() -> nn.Module:
        model = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=1000, tf_padding=False))
        backbone: Any = model.mobilenet_v2
        # Of the blocks that add what they are given, all alike but for their widths, every third one is left.
        plain = [block for block in backbone.layer if block.use_residual]
        backbone.layer = nn.ModuleList(block for block in backbone.layer if not block.use_residual or block in plain[::3])
        return Named(model, "logits")

    return settled(build, (160, 192))


def _densenet() -> nn.Module:
    from tests.models.densenet import DenseNet

    return settled(lambda: Scores(DenseNet(blocks=(2, 3), growth=16, stem=32)), (160, 192))


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=192, num_hidden_layers=3, num_attention_heads=3, intermediate_size=768, image_size=160, num_labels=1000,
                       attn_implementation="eager")
    return settled(lambda: Named(ViTForImageClassification(config), "logits"), (160, 160))


def _convnext() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[48, 96, 192, 384], depths=[1, 1, 2, 1], num_labels=1000, layer_scale_init_value=0.5)
    return settled(lambda: Named(ConvNextForImageClassification(config), "logits"), (160, 192))


def _detr() -> nn.Module:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(embedding_size=32, hidden_sizes=[64, 128, 256, 512], depths=[1, 1, 1, 1], out_features=["stage4"])
    config = DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=128, num_queries=50,
                        encoder_layers=2, decoder_layers=2, encoder_ffn_dim=512, decoder_ffn_dim=512, encoder_attention_heads=4,
                        decoder_attention_heads=4, num_labels=20, init_std=0.1, attn_implementation="eager")

    def build() -> nn.Module:
        model = DetrForObjectDetection(config)
        nn.init.normal_(model.model.query_position_embeddings.weight, std=4.0)  # untrained queries would all find the same box
        return QueryDetector(model, True, 0.6)

    return settled(build, (160, 192), {"model.class_labels_classifier": (1.5, 0.0)})


def _rt_detr() -> nn.Module:
    from transformers import RTDetrConfig, RTDetrForObjectDetection
    from transformers.models.rt_detr.configuration_rt_detr_resnet import RTDetrResNetConfig

    backbone = RTDetrResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], layer_type="basic",
                                  out_features=["stage2", "stage3", "stage4"])
    config = RTDetrConfig(backbone_config=backbone, use_timm_backbone=False, freeze_backbone_batch_norms=False, encoder_in_channels=[64, 96, 128],
                          encoder_hidden_dim=64, encoder_ffn_dim=128, encoder_attention_heads=4, d_model=64, num_queries=30,
                          decoder_in_channels=[64, 64, 64], decoder_ffn_dim=128, decoder_layers=2, decoder_attention_heads=4, num_labels=20,
                          attn_implementation="eager")

    def build() -> nn.Module:
        model = RTDetrForObjectDetection(config)
        for child in model.modules():
            if isinstance(child, nn.BatchNorm2d):
                nn.init.ones_(child.weight)  # transformers draws it near 0, under which the statistics of later layers mean nothing
        return QueryDetector(model, False, 0.6)

    heads = ({"model.model.enc_score_head": (1.5, -2.0)}, {"model.model.decoder.class_embed.1": (1.5, -2.0)})
    return settled(build, (160, 192), heads)


def _yolos() -> nn.Module:
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192, image_size=[160, 192], patch_size=16,
                         num_detection_tokens=30, num_labels=20, use_mid_position_embeddings=True, attn_implementation="eager")

    def build() -> nn.Module:
        model = YolosForObjectDetection(config)
        for name, parameter in model.vit.named_parameters():
            if "embeddings" in name or name.endswith("tokens"):
                nn.init.normal_(parameter, std=0.3)  # zeros: all untrained tokens would find the same box
        return QueryDetector(model, True, 0.5)

    return settled(build, (160, 192), {"model.class_labels_classifier.layers.2": (1.5, 0.0), "model.bbox_predictor.layers.2": (1.0, 0.0)})


def _segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(num_labels=21, depths=[1, 1, 1, 1], attn_implementation="eager")  # MiT-B0 has two layers on each scale
    return settled(lambda: Named(SegformerForSemanticSegmentation(config), "logits"), (160, 192))


#: Every vision model by name.
VISION: dict[str, VisionModel] = {
    "resnet": VisionModel(_resnet),
    "mobilenet_v2": VisionModel(_mobilenet),
    "densenet": VisionModel(_densenet, extended=True),
    "vit": VisionModel(_vit, sizes=((160, 160),)),
    "convnext": VisionModel(_convnext, extended=True),
    "yolo_v8n": VisionModel(_yolo, candidates=80 * 630),
    "ssd": VisionModel(_ssd, sizes=((320, 288), (352, 416)), candidates=20 * 9900, extended=True),
    "faster_rcnn": VisionModel(_rcnn(False), candidates=20 * 160, extended=True),
    "detr": VisionModel(_detr, candidates=50),
    "rt_detr": VisionModel(_rt_detr, candidates=30, extended=True),
    "yolos": VisionModel(_yolos, candidates=30, extended=True),
    "unet": VisionModel(_unet),
    "deeplab_v3plus": VisionModel(_deeplab, extended=True),
    "mask_rcnn": VisionModel(_rcnn(True), candidates=20 * 160),
    "segformer": VisionModel(_segformer, extended=True),
}
