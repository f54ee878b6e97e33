//! Tables for people: aligned, cut to the terminal's width, safe to print.

use std::io::IsTerminal;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::paint::Paint;

/// Columns that people read, one row per thing.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug, Clone)]
struct Column {
    title: &'static str,
    right: bool,
    status: bool,
}

impl Table {
    /// Titles; one that begins with `>` is set to the right (numbers), one that begins with `*` is a status and coloured.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        let columns = titles
            .iter()
            .map(|title| Column {
                title: title.trim_start_matches(['>', '*']),
                right: title.starts_with('>'),
                status: title.starts_with('*'),
            })
            .collect();
        Self { columns, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, cut to `width` columns where one is given. What does not fit is taken from the widest columns first.
    pub(crate) fn render(&self, width: Option<usize>, paint: Paint) -> String {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| {
                self.rows
                    .iter()
                    .filter_map(|row| row.get(at))
                    .map(|cell| cell.width())
                    .max()
                    .unwrap_or(0)
                    .max(column.title.width())
            })
            .collect();
        if let Some(width) = width {
            shrink(&mut widths, width.saturating_sub(2 * self.columns.len().saturating_sub(1)));
        }
        let mut out = String::new();
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        self.line(&mut out, &titles, &widths, |_, text| paint.dim(text));
        for row in &self.rows {
            self.line(
                &mut out,
                row,
                &widths,
                |column, text| if column.status { paint_status(paint, text) } else { text.to_owned() },
            );
        }
        out
    }

    fn line(&self, out: &mut String, cells: &[String], widths: &[usize], paint: impl Fn(&Column, &str) -> String) {
        let last = self.columns.len().saturating_sub(1);
        for (at, (column, width)) in self.columns.iter().zip(widths).enumerate() {
            let text = cut(cells.get(at).map_or("", String::as_str), *width);
            let room = " ".repeat(width.saturating_sub(text.width()));
            let text = paint(column, &text);
            match (column.right, at == last) {
                (true, _) => out.extend([room.as_str(), &text]),
                (false, true) => out.push_str(&text),
                (false, false) => out.extend([text.as_str(), &room]),
            }
            if at < last {
                out.push_str("  ");
            }
        }
        while out.ends_with(' ') {
            out.pop();
        }
        out.push('\n');
    }
}

fn paint_status(paint: Paint, text: &str) -> String {
    paint.status(text)
}

/// Takes columns from the widest until all fit; nothing goes below 4.
fn shrink(widths: &mut [usize], room: usize) {
    while widths.iter().sum::<usize>() > room {
        match widths.iter_mut().max() {
            Some(widest) if *widest > 4 => *widest -= 1,
            _ => return,
        }
    }
}

/// At most `width` terminal columns, with an ellipsis where something was cut.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for char in text.chars() {
        let wide = char.width().unwrap_or(0);
        if used + wide + 1 > width {
            break;
        }
        used += wide;
        out.push(char);
    }
    out.push('…');
    out
}

/// What callers stored may hold escape sequences: nothing but printable characters reaches a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { if char == '\n' || char == '\t' { ' ' } else { '·' } } else { char })
        .collect()
}

/// Columns of the terminal that standard output is; `None`: it is none, nothing is cut.
pub(crate) fn terminal_width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cut_to_the_width() {
        let mut table = Table::new(&["id", ">size", "title"]);
        table.row(["a".into(), "5".into(), "short".into()]);
        table.row(["bb".into(), "500".into(), "a rather long title that does not fit".into()]);
        let text = table.render(Some(24), Paint::plain());
        assert_eq!(text, "id  size  title\na      5  short\nbb   500  a rather long…\n");
        assert!(text.lines().all(|line| line.width() <= 24));
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\nc"), "a·[31mb c");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(cut("日本語です", 7), "日本語…");
    }
}
