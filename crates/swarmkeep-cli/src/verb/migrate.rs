//! `swarmkeep migrate`: versions of the databases. Every start brings them up by itself; one made by a newer program is
//! refused, untouched. Only views.db has a way down, because it can be built again.

use clap::Subcommand;
use serde_json::json;
use swarmkeep::{
    Holder, Settings, Swarmkeep,
    lock::StoreLock,
    upkeep::{self, VIEWS_SCHEMA},
};

use super::{
    recover::{held, is_served},
    serve::refused,
};
use crate::{context::Context, failure::Failure, say::say, table::Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Which version each database has, and which this program knows
    Status,
    /// Bring the databases up to this program's version
    Up {
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// views.db alone
    #[command(subcommand)]
    Views(Views),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Views {
    /// Take back every step above a version; the next start builds the rest again
    Down {
        /// To this version
        #[arg(long, default_value_t = 0, value_name = "VERSION")]
        to: i64,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

impl Verb {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        context.place.must_be_a_store()?;
        match self {
            Self::Status => status(context),
            Self::Up { dry_run } => up(context, dry_run).await,
            Self::Views(Views::Down { to, dry_run }) => down(context, to, dry_run).await,
        }
    }
}

fn status(context: &Context) -> Result<(), Failure> {
    let schemas = upkeep::schemas(&context.place.dir);
    let mut table = Table::new(&["database", ">version", ">known", "step", "name", "stands", "way back"]);
    for schema in &schemas {
        let version = schema.version.map_or("none".to_owned(), |version| version.to_string());
        for step in &schema.steps {
            table.row([
                schema.file.to_owned(),
                version.clone(),
                schema.known.to_string(),
                step.version.to_string(),
                step.name.to_owned(),
                if step.applied { "applied" } else { "to come" }.to_owned(),
                if step.has_down { "yes" } else { "no" }.to_owned(),
            ]);
        }
    }
    context.answer(&json!({ "databases": schemas }), |context| {
        context.print_table(&table, "no databases");
        for schema in &schemas {
            if let Some(refused) = &schema.refused {
                say!("{} {}", context.paint.red("refused:"), crate::table::printable(refused));
            }
        }
    })?;
    match schemas.iter().find_map(|schema| schema.refused.as_ref()) {
        Some(what) => {
            Err(Failure::unavailable(what.clone(), "use the program that made it, or a newer one; nothing was changed"))
        }
        None => Ok(()),
    }
}

async fn up(context: &Context, dry_run: bool) -> Result<(), Failure> {
    let to_come = |schemas: &[upkeep::SchemaStanding]| -> Vec<String> {
        let steps = schemas.iter().flat_map(|schema| schema.steps.iter().map(move |step| (schema.file, step)));
        steps
            .filter(|(_, step)| !step.applied)
            .map(|(file, step)| format!("{file}: {} {}", step.version, step.name))
            .collect()
    };
    let before = to_come(&upkeep::schemas(&context.place.dir));
    if dry_run || before.is_empty() {
        return context.answer(&json!({ "dry_run": dry_run, "to_come": before }), |_| {
            for step in &before {
                say!("would do {step}");
            }
            if before.is_empty() {
                say!("everything is up to date");
            }
        });
    }
    if is_served(context).await {
        return Err(held(context));
    }
    context.place.make()?;
    let keep = Swarmkeep::open_with(context.place.dir.to_string_lossy(), Settings::default()).await.map_err(refused)?;
    keep.close().await.map_err(refused)?;
    let left = to_come(&upkeep::schemas(&context.place.dir));
    context.answer(&json!({ "done": before, "to_come": left }), |_| {
        for step in &before {
            say!("done {step}");
        }
    })
}

async fn down(context: &Context, to: i64, dry_run: bool) -> Result<(), Failure> {
    let path = swarmkeep::lock::home(&context.place.dir).join("views.db");
    let steps: Vec<String> = upkeep::schemas(&context.place.dir)
        .iter()
        .filter(|schema| schema.file == "views.db")
        .flat_map(|schema| schema.steps.iter().rev())
        .filter(|step| step.applied && step.version > to)
        .map(|step| format!("{} {}", step.version, step.name))
        .collect();
    let say_steps = |context: &Context, word: &str| {
        context.answer(&json!({ "dry_run": dry_run, "taken_back": steps }), |_| {
            for step in &steps {
                say!("{word} migration {step}");
            }
            if steps.is_empty() {
                say!("views.db has nothing above version {to}");
            }
        })
    };
    if dry_run || steps.is_empty() {
        return say_steps(context, "would take back");
    }
    if is_served(context).await {
        return Err(held(context));
    }
    let holder = Holder { pid: std::process::id(), ..Holder::default() };
    let lock = StoreLock::take(&context.place.dir, &holder).map_err(|_| held(context))?;
    let failed = |what: String| {
        Failure::unavailable(
            format!("{}: {what}", path.display()),
            "or remove views.db: the next start builds it again",
        )
    };
    let mut connection = rusqlite::Connection::open(&path).map_err(|error| failed(error.to_string()))?;
    VIEWS_SCHEMA.down(&mut connection, to).map_err(|error| failed(error.to_string()))?;
    drop(lock);
    say_steps(context, "took back")
}
