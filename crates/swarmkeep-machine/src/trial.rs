//! Trials: the power goes, again and again, on one disk after the other.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    Options,
    machine::{Machine, Seen},
    platter::{Dice, Loss},
};

/// Losses of power on one disk: what was acknowledged before the first is looked for after the last.
const ON_ONE_DISK: u64 = 10;
/// One in so many losses comes while the machine is still coming back from the one before.
const EARLY: u64 = 3;
/// Writes and flushes after which the power goes, of a machine that comes back, and of one at work.
const EARLY_CHANGES: u64 = 160;
const CHANGES: u64 = 600;
/// And so long at most, in milliseconds, if there are not as many.
const EARLY_MS: u64 = 400;
const WORK_MS: u64 = 1_500;
/// From one line of progress to the next.
const PROGRESS: Duration = Duration::from_secs(5);

/// What it came to.
#[derive(Debug, Default)]
struct Figures {
    /// Losses of power.
    trials: u64,
    /// Of them, while the machine was coming back.
    early: u64,
    disks: u64,
    /// Each counted once.
    writes: u64,
    /// How often an acknowledgement was looked for.
    checks: u64,
    records: u64,
    unflushed_bytes: u64,
    kinds: BTreeMap<&'static str, u64>,
}

impl Figures {
    fn say(&self) -> String {
        format!(
            "{} losses of power ({} while coming back) on {} disks, {} acknowledged writes, {} checks of them, {} records \
             verified, {:.1} KB not flushed, {:?}",
            self.trials,
            self.early,
            self.disks,
            self.writes,
            self.checks,
            self.records,
            self.unflushed_bytes as f64 / 1e3,
            self.kinds
        )
    }
}

/// All of them; the exit code.
pub(crate) fn run(options: &Options, below: &Path) -> ExitCode {
    let began = now();
    let mut figures = Figures::default();
    let mut said = began;
    let mut seed = options.seed;
    let over = |figures: &Figures| {
        figures.trials >= options.trials || now().duration_since(began).as_secs() >= options.seconds
    };
    while !over(&figures) {
        figures.disks += 1;
        let dir = below.join(seed.to_string());
        let machine = match Machine::new(&options.binary, &dir) {
            Err(why) if figures.trials == 0 => {
                println!("skipped: {why}");
                drop(fs::remove_dir_all(&dir).and_then(|()| fs::remove_dir(below)));
                return ExitCode::SUCCESS;
            }
            machine => machine,
        };
        if let Err(why) = machine.and_then(|machine| disk(machine, seed, &mut figures, &mut said, &over)) {
            println!("FAILED: found by trial {} (seed {seed}): {why}", figures.trials);
            println!("   what was acknowledged and said is left in {}", dir.display());
            println!("   again: cargo xtask soak machine --trials {ON_ONE_DISK} --seed {seed}");
            keep(options, &figures, 1, began);
            return ExitCode::from(4);
        }
        seed += 1;
    }
    drop(fs::remove_dir(below));
    println!("{}, 0 failed, {} s", figures.say(), now().duration_since(began).as_secs());
    keep(options, &figures, 0, began);
    ExitCode::SUCCESS
}

/// One disk, from its first power to the last look.
fn disk(
    mut machine: Machine,
    seed: u64,
    figures: &mut Figures,
    said: &mut Instant,
    over: &impl Fn(&Figures) -> bool,
) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    for nth in 0..ON_ONE_DISK {
        if nth > 0 && over(figures) {
            break;
        }
        let early = nth > 0 && dice.below(EARLY) == 0;
        let at_work = match early {
            true => come_back(&mut machine, &mut dice)?,
            false => work(&mut machine, &mut dice, figures)?,
        };
        if !at_work {
            figures.early += 1;
        }
        let loss = Loss::draw(&mut dice);
        figures.unflushed_bytes += machine.lose(loss, &mut dice)?;
        figures.trials += 1;
        *figures.kinds.entry(loss.name()).or_default() += 1;
        if now().duration_since(*said) >= PROGRESS {
            *said = now();
            println!("   {}", figures.say());
        }
    }
    // The last one is looked at in peace.
    machine.switch_on(None)?;
    machine.start_daemon()?;
    let seen = machine.look()?.ok_or("the power went by itself")?;
    figures.checks += seen.acknowledged;
    figures.records += seen.records;
    figures.writes += seen.acknowledged;
    machine.forget();
    Ok(())
}

/// The machine works until the power goes. `false`: it went before anybody worked.
fn work(machine: &mut Machine, dice: &mut Dice, figures: &mut Figures) -> Result<bool, String> {
    machine.switch_on(None)?;
    machine.start_daemon()?;
    let Some(seen) = machine.look()? else { return Ok(false) };
    let Seen { acknowledged, records } = seen;
    figures.checks += acknowledged;
    figures.records += records;
    machine.start_clients(dice)?;
    machine.device().cut_after(1 + dice.below(CHANGES));
    machine.device().cut_within(Duration::from_millis(50 + dice.below(WORK_MS)));
    Ok(true)
}

/// The power goes while the file system or the daemon is coming back.
fn come_back(machine: &mut Machine, dice: &mut Dice) -> Result<bool, String> {
    if machine.switch_on(Some(1 + dice.below(EARLY_CHANGES)))? {
        machine.start_daemon()?;
        machine.start_clients(dice)?;
        machine.device().cut_within(Duration::from_millis(dice.below(EARLY_MS)));
    }
    Ok(false)
}

/// A line of figures where somebody wants one.
fn keep(options: &Options, figures: &Figures, failed: u64, began: Instant) {
    let Ok(path) = std::env::var("SWARMKEEP_DISK_FIGURES") else { return };
    let line = json!({
        "test": "machine", "seed": options.seed, "histories": figures.disks, "writes": figures.writes,
        "trials": figures.trials, "checks": figures.checks, "records": figures.records, "early": figures.early,
        "unflushed_bytes": figures.unflushed_bytes,
        "failed": failed, "ms": u64::try_from(now().duration_since(began).as_millis()).unwrap_or(u64::MAX),
    });
    let file = fs::OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
        println!("{path}: {error}");
    }
}

#[expect(clippy::disallowed_methods, reason = "this program only tells how long something took")]
fn now() -> Instant {
    Instant::now()
}
