"""Settings of the write path's producer. docs/explanation/recipe.md has what each one costs."""

from typing import Annotated, Literal

from pydantic import Field

from app.config.source import SettingsGroup
from app.config.values import SMALL


class ProducerSettings(SettingsGroup):
    """How what clients write is gathered, packed and sent again."""

    write_linger_ms: float = Field(
        4, ge=0, le=1000, description="How long what is written waits for more, while writes come."
    )
    write_batch_kib: int = Field(
        512, ge=1, le=512, description="Largest batch that is written to a partition at once."
    )
    write_compression: Annotated[Literal["none", "lz4", "zstd"], SMALL] = Field(
        "none", description="How batches of what clients write are compressed."
    )
    write_retry_ms: float = Field(
        100, ge=1, le=60_000, description="First pause before a batch is sent again; it doubles."
    )
    write_retry_max_ms: float = Field(
        1000, ge=1, le=60_000, description="The longest of these pauses."
    )
