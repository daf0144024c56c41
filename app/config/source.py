"""Where settings come from: the environment, by names in capitals."""

import os
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.config.values import File
from app.domain.texts import STRAY


class _Environment(PydanticBaseSettingsSource):
    """The environment. Blanks and line ends around a value do not count."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return a setting's value; None if it is not set."""
        return os.environ.get(field_name.upper(), "").strip() or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the settings that are set, by the names of their fields."""
        fields = self.settings_cls.model_fields.items()
        given = {name: self.get_field_value(field, name)[0] for name, field in fields}
        return {name: value for name, value in given.items() if value is not None}


class SettingsGroup(BaseSettings):
    """Settings of one concern, read from the environment."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, and nothing else."""
        return init_settings, _Environment(settings_cls)

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, given: object) -> object:
        if isinstance(given, str) and STRAY.search(given):
            raise ValueError("must be UTF-8 text without control characters, in one line")
        return given


class Place(SettingsGroup):
    """Where everything is. This one setting is enough to stop what runs there."""

    data_dir: File = Field(Path("data"), description="Where this worker keeps its stores.")
