"""A log that can be proved: the recorder of a sealed run. docs/seal.md has the format.

Rules:

1. The first record is ``log.key``, and the last one is a checkpoint behind ``relay.stopped``.
2. Records of one moment stay together. If a checkpoint is due among them, it comes before them.
3. A line is hashed as it is written, whatever its format. So hashing is the last step of rendering.
4. A note goes out behind its record: it must never tell of more lines than the log can have.
"""

import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from mprelay.records import catalogue
from mprelay.records.catalogue import Message
from mprelay.records.recorder import Recorder, Sink
from mprelay.records.render import Renderer
from mprelay.seal.sealer import CHECKPOINT_LINES, Sealer, Signer

NoteSink: TypeAlias = Callable[[list[str]], None]
"""Takes the notes of checkpoints. It must not block."""


class SealedRecorder(Recorder):
    """Writes the records of one run, and seals them.

    Args:
        render: Makes a line of a record.
        sinks: Take the lines.
        labels: Stand on every record.
        new_key: Makes a key of the run.
        owner: The long-lived key that vouches for the first of them; None: none does.
        note_sink: Takes the checkpoints as notes; None: nobody wants them.

    """

    def __init__(
        self,
        render: Renderer,
        *sinks: Sink,
        labels: Mapping[str, str] | None = None,
        new_key: Callable[[], Signer],
        owner: Signer | None,
        note_sink: NoteSink | None,
    ) -> None:
        super().__init__(render, *sinks, labels=labels)
        self._seal = Sealer(self.relay_id, new_key, owner)
        self._note_sink = note_sink
        self._happened = self.happened
        self.happened = self._sealed
        self._write_key()

    @property
    def uncovered(self) -> bool:
        """Whether there is a record that no checkpoint covers, other than the last checkpoint."""
        return self._seal.uncovered > 0

    def checkpoint(self, *, last: bool = False) -> None:
        """Seal what has been written, if that has not been done. Nothing follows on the last checkpoint."""
        if not self.uncovered:
            return
        at = time.time()

        def line_of(fields: Mapping[str, Any]) -> bytes:
            composed = self._compose(None, "", {"at": at, "records": [(catalogue.LOG_CHECKPOINT, fields)]})
            self._seq -= 1  # it is not written yet
            (record,) = composed["records"]
            return self._render(record)

        self._happened(at, (catalogue.LOG_CHECKPOINT, self._seal.checkpoint(line_of)))
        if self._seal.worn and not last:
            self._write_key()

    def flush(self) -> None:
        """Give the sinks what was written since the last flush, and then the notes."""
        super().flush()
        if self._seal.notes:
            notes = self._seal.take_notes()
            if self._note_sink is not None:
                self._note_sink(notes)

    def _sealed(self, at: float, *records: tuple[Message, Mapping[str, object]]) -> None:
        """Write the records of one moment (:attr:`happened`), a checkpoint before them if one is due."""
        if self._seal.uncovered + len(records) > CHECKPOINT_LINES:
            self.checkpoint()
        self._happened(at, *records)

    def _render_all(self, logger: object, method: str, given: MutableMapping[str, Any]) -> Any:  # noqa: ANN401
        """Render the records, and seal their lines."""
        (lines,), options = super()._render_all(logger, method, given)
        self._seal.add(lines)
        return (lines,), options

    def _write_key(self) -> None:
        self._happened(time.time(), (catalogue.LOG_KEY, self._seal.renew()))
