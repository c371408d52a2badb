"""The pack's nodes, one file a family. Imported only when ComfyUI asks for them; see ``comfy_entrypoint``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    guidance,
    interaction,
    interaction_guided,
    maps,
    objects,
    pixelworld,
    prompt,
    realign,
    refl,
    rewards,
    reweight,
    scores,
    tags,
    training,
    verdicts,
)


class InterplayExtension(ComfyExtension):
    """Hands the nodes of every family to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes, family by family, in the order of the menu."""
        families = (
            prompt,
            guidance,
            maps,
            pixelworld,
            scores,
            rewards,
            interaction,
            interaction_guided,
            tags,
            verdicts,
            objects,
            realign,
            reweight,
            training,
            refl,
        )
        return [node for family in families for node in family.NODES]
