//! Tables in plain text, in the form that a README shows.

/// Prints a table under a sentence that says what it is about.
pub fn print<const N: usize>(about: &str, names: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let rows: Vec<_> = [names.map(str::to_owned)].into_iter().chain(rows).collect();
    let widths: Vec<_> = (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    println!("{about}\n");
    for (at, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            // Words to the left, numbers to the right.
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
        if at == 0 {
            let lines = widths
                .iter()
                .enumerate()
                .map(|(column, width)| if column == 0 { "-".repeat(width + 2) } else { "-".repeat(width + 1) + ":" });
            println!("|{}|", lines.collect::<Vec<_>>().join("|"));
        }
    }
    println!();
}
