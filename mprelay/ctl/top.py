"""The screen of `mprelayctl top`, by textual. What stands in it is made in :mod:`mprelay.ctl.screen`.

Rules:

1. Rows are updated in place. A table is sorted only if its order has changed, and made anew only if a column has
   to become wider, or has another title.
2. The cursor stays on its session, wherever that goes. A question names the session that it is about.
3. Whatever ends the program, the terminal is left as it was. A signal that has stopped the screen then ends the
   program as it would have ended any other.
"""

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import ClassVar, Final

from rich.text import Text
from textual.actions import SkipAction
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.events import Resize
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import DataTable, Input, Static
from textual.widgets.data_table import CursorType

from mprelay.core.exits import Exit
from mprelay.ctl import screen
from mprelay.ctl.client import Denied, NoRelay
from mprelay.ctl.feed import Feed, Gone, News, Said
from mprelay.ctl.terminal import Terminal, without_signals

_SILENCE: Final = 2.5  # seconds without a sample after which the screen says so
_TINY, _SMALL = 8, 16  # lines of a terminal below which less is shown
_MANY: Final = 50  # rows: to take one away costs as much as the table has rows
_STOP_SIGNALS: Final = ("SIGHUP", "SIGINT", "SIGTERM", "SIGQUIT")


def run(feed: Feed) -> int:
    """Show the screen until somebody leaves it; return the exit code. Raises NoRelay or Denied: it is gone."""
    top = Top(feed, Terminal)
    top.run()
    if top.stopped_by is not None:
        _end_by(top.stopped_by)
    if top.gone is not None:
        raise top.gone
    return (
        Exit.SOFTWARE if top.return_value is None else top.return_value
    )  # textual has shown what was unexpected


def _end_by(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class Heard(Message):
    """The feed has told something."""

    def __init__(self, news: News) -> None:
        super().__init__()
        self.news = news


class Question(ModalScreen[bool]):
    """Asks whether to do something. Only y is a yes."""

    CSS = """
    Question { align: center bottom; background: transparent; }
    Question Static { width: 100%; height: auto; background: $error; color: $text; text-style: bold; }
    Question:nocolor Static { text-style: reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "yes"),
        Binding("n,escape,q", "dismiss(False)", "no"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Make the line with the question."""
        yield Static(Text(f"{self._text} (y/n)"))


class Line(Static):
    """A text that is drawn only if it has changed."""

    _text = ""

    def show(self, text: str) -> None:
        """Show a text."""
        if text != self._text:
            self._text = text
            self.update(Text(text, no_wrap=True))


class Filter(Input):
    """Takes what somebody types until Enter or Escape. The next key is no longer its own."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "keep", "keep", priority=True),
        Binding("escape", "app.unfilter", "no filter", priority=True),
    ]

    def action_keep(self) -> None:
        """Keep the filter, and go back to the sessions."""
        self.display = bool(self.value)
        self.screen.set_focus(self.screen.query_one("#sessions"))


class Rows(DataTable[Text]):
    """A table that is told what it shall show, and changes what is different. The first column is the key."""

    def __init__(self, name: str, cursor: CursorType, columns: Mapping[str, screen.Column]) -> None:
        super().__init__(id=name, cursor_type=cursor, cell_padding=0)
        self._names = [*columns]
        self._columns = [*columns.values()]
        self._titles: list[str] = []
        self._widths = [column.width for column in self._columns]
        self._shown: Mapping[str, screen.Cells] = {}
        self.order: list[str] = []
        """The keys of the rows, from top to bottom."""
        self.chosen: str | None = None
        """The key of the row that the cursor is on."""

    def show(self, titles: list[str], rows: Mapping[str, screen.Cells]) -> None:
        """Show these rows below these titles."""
        widths = screen.widths(self._widths, (titles, *rows.values()))
        changes = screen.changes(self._shown, rows)
        order = [*rows]
        if titles != self._titles or widths != self._widths or len(changes.gone) > _MANY:
            self._titles, self._widths = titles, widths
            self._make(rows)
        else:
            for key in changes.gone:
                self.remove_row(key)
            self._add(changes.come)
            for key, column, text in changes.changed:
                self.update_cell(key, str(column), self._cell(column, text))
            if order != [*(key for key in self.order if key in rows), *changes.come]:
                ranks = {key: rank for rank, key in enumerate(order)}
                self.sort("0", key=lambda cell: ranks[cell.plain.strip()])
        self._shown, self.order = rows, order
        self._follow()

    def _make(self, rows: Mapping[str, screen.Cells]) -> None:
        self.clear(columns=True)
        for column, (title, width) in enumerate(zip(self._titles, self._widths, strict=True)):
            self.add_column(self._cell(column, title), width=width + 1, key=str(column))
        self._add(rows)

    def _add(self, rows: Mapping[str, screen.Cells]) -> None:
        for key, row in rows.items():
            self.add_row(*(self._cell(column, text) for column, text in enumerate(row)), key=key)

    def _cell(self, column: int, text: str) -> Text:
        width = self._widths[column]
        return Text(f"{text:>{width}} " if self._columns[column].figures else f"{text:{width}} ", no_wrap=True)

    def _follow(self) -> None:
        """Keep the cursor on its row, or, if that is gone, where it was."""
        if self.chosen is not None and self.chosen in self._shown:
            row = self.order.index(self.chosen)
            if row != self.cursor_row:
                self.move_cursor(row=row)
        else:
            self.choose()

    def on_data_table_row_highlighted(self) -> None:
        """Note on which row the cursor is by now."""
        self.choose()

    def cell(self, key: str, name: str) -> str:
        """Return what stands in a column of a row."""
        return self._shown[key][self._names.index(name)]

    def choose(self) -> None:
        """Choose the row that the cursor is on."""
        self.chosen = self.order[min(self.cursor_row, len(self.order) - 1)] if self.order else None


class Top(App[int]):
    """The screen. Its result is the exit code."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { overflow: hidden; }
    #head, #origin, #keys { text-wrap: nowrap; }
    #head { height: auto; text-style: bold; background: $primary; color: $text; }
    #origin { height: 1; color: $text-muted; }
    #workers { height: auto; max-height: 30%; margin-bottom: 1; }
    #sessions { height: 1fr; }
    #filter, #filter:focus { height: 1; border: none; padding: 0; }
    #keys { height: 1; color: $text-muted; background: $panel; }
    #notice { height: auto; max-height: 2; background: $warning; color: $text; }
    #head:nocolor, #notice:nocolor { text-style: reverse; }
    Rows:nocolor > .datatable--cursor { text-style: reverse; }
    .small #origin, .small #workers, .tiny #keys { display: none; }
    .tiny #sessions { scrollbar-size: 0 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(f"{number}", f"sort('{name}')", "sort") for number, name in enumerate(screen.COLUMNS, 1)),
        Binding("r", "reverse", "reverse"),
        Binding("slash", "filter", "filter", priority=True),  # what is typed next is for the filter already
        Binding("k", "kill", "kill"),
        Binding("q", "leave", "quit"),
        Binding("ctrl+c", "leave", "quit", priority=True),
        Binding("ctrl+z", "suspend_process", "stop", priority=True),
        Binding("escape", "unfilter", "no filter"),
    ]

    def __init__(self, feed: Feed, driver: type[Driver] | None = None) -> None:
        # The colours of the terminal itself are those that textual can leave out altogether.
        super().__init__(driver_class=driver, ansi_color=True if "NO_COLOR" in os.environ else None)
        self.stopped_by: signal.Signals | None = None
        self.gone: NoRelay | Denied | None = None
        self._feed = feed
        self._samples = deque([feed.first], screen.SAMPLES)
        self._column = "session"
        self._reverse = False
        self._said = ""
        # What comes while the screen is cleared away, as a tick of the timer, would look for these in vain.
        self._head = Line(id="head")
        self._origin = Line(id="origin")
        self._worker_rows = Rows("workers", "none", screen.WORKER_COLUMNS)
        self._session_rows = Rows("sessions", "row", screen.COLUMNS)
        self._filter = Filter(id="filter", placeholder="client, target, worker")
        self._notice = Line(id="notice")
        self._keys = Line(id="keys")

    def compose(self) -> ComposeResult:
        """Give the parts of the screen, from top to bottom."""
        yield self._head
        yield self._origin
        yield self._worker_rows
        yield self._session_rows
        yield self._filter
        yield self._notice
        yield self._keys

    def on_mount(self) -> None:
        """Begin to listen to the relay, and to signals."""
        loop = asyncio.get_running_loop()
        for name in _STOP_SIGNALS:
            number = signal.Signals[name]
            loop.add_signal_handler(number, self._stop, number)
        self._worker_rows.can_focus = False
        self._filter.display = self._notice.display = False
        self._session_rows.focus()
        self._show()
        with without_signals():
            self._feed.start(lambda news: self.post_message(Heard(news)))
        self.set_interval(0.5, self._give_notice)
        # The terminal is empty then. textual paints only what it takes for changed.
        self.app_resume_signal.subscribe(self, lambda _: self.refresh(layout=True))

    def on_unmount(self) -> None:
        """Leave the relay alone."""
        self._feed.close()

    def _stop(self, number: signal.Signals) -> None:
        """End as this signal would, once the terminal is as it was."""
        if sys.__stdout__ is None or not sys.__stdout__.isatty():  # it has hung up
            _end_by(number)
        if isinstance(self._driver, Terminal) and self._driver.in_background():
            # The terminal's modes are the shell's there, and the SIGCONT that came along would stop it again.
            self._driver.clear_away()
            _end_by(number)
        self.stopped_by = number
        self.exit()

    # -- what the relay says ---------------------------------------------------------------------------------

    def on_heard(self, heard: Heard) -> None:
        """Show what the feed has told."""
        news = heard.news
        if isinstance(news, Gone):
            self.gone = news.why
            self.exit()
        elif isinstance(news, Said):
            self._say(news.text)
        else:
            self._samples.append(news)
            self._show()

    def _show(self) -> None:
        """Show the sample."""
        self._show_head()
        titles = [column.title for column in screen.WORKER_COLUMNS.values()]
        rows = screen.worker_rows(self._samples)
        self._worker_rows.show(titles, rows)
        self._show_sessions()

    def _show_head(self) -> None:
        width, height = self.size
        status = self._samples[-1].status
        self._head.show(screen.packed(screen.facts(status), width, 1 if height < _TINY else 3))
        self._keys.show(screen.packed(screen.KEYS, width, 1))
        self._origin.show(screen.packed(screen.origin(status), width, 1))

    def _show_sessions(self) -> None:
        lines = screen.lines_of(self._samples)
        words = self._filter.value
        chosen = screen.chosen(lines, words, self._column, reverse=self._reverse)
        self._session_rows.show(
            screen.titles(self._column, reverse=self._reverse),
            {str(line.session): screen.cells(line) for line in chosen},
        )

    def _give_notice(self) -> None:
        """Say what is the matter, if anything is."""
        silent = time.monotonic() - self._samples[-1].at
        text = f"no answer for {silent:.0f} s" if silent > _SILENCE else self._said
        self._notice.show(text)
        self._notice.display = bool(text)

    def _say(self, text: str) -> None:
        self._said = text
        self._give_notice()

    # -- what a person does ----------------------------------------------------------------------------------

    def on_resize(self, event: Resize) -> None:
        """Leave out what there is no room for."""
        self.default_screen.set_class(event.size.height < _SMALL, "small")
        self.default_screen.set_class(event.size.height < _TINY, "tiny")
        self._show_head()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by a column that was clicked at."""
        if event.data_table.id == "sessions":
            self.action_sort([*screen.COLUMNS][event.column_index])

    def on_input_changed(self) -> None:
        """Filter while somebody types."""
        self._show_sessions()

    def action_sort(self, column: str) -> None:
        """Sort by a column."""
        self._column, self._reverse = column, screen.COLUMNS[column].largest_first
        self._show_sessions()

    def action_reverse(self) -> None:
        """Turn the order round."""
        self._reverse = not self._reverse
        self._show_sessions()

    def action_filter(self) -> None:
        """Ask for a filter."""
        if self.screen.is_modal or isinstance(self.focused, Filter):
            raise SkipAction
        self._filter.display = True
        self.screen.set_focus(self._filter)

    def action_unfilter(self) -> None:
        """Show all sessions, and no notice."""
        self._filter.value = ""
        self._filter.action_keep()
        self._say("")

    def action_kill(self) -> None:
        """Ask whether to kill the session that the cursor is on."""
        rows = self._session_rows
        rows.choose()
        if rows.chosen is None:
            self._say("there is no session to kill")
            return
        session = int(rows.chosen)
        self.push_screen(
            Question(f"kill session {session} of {rows.cell(rows.chosen, 'client')}?"),
            lambda yes: self._feed.kill(session) if yes else None,
        )

    def action_leave(self) -> None:
        """End the program."""
        self.exit(int(Exit.OK))
