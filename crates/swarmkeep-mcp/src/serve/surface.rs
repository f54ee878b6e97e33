//! Tools, resources and prompts, as `rmcp` asks for them. It speaks every revision: with `initialize` up to 2025-11-25, without
//! sessions from 2026-07-28 on.

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams, CompleteResult,
        GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult, Implementation, ListPromptsResult,
        ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
        ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities, ServerConfig, Tool as Described,
    },
    service::RequestContext,
};

use super::{
    api::{Api, Problem},
    call, completion,
    long::Tasks,
    prompt, resource, tools,
};

/// What a client's model is told once.
const INSTRUCTIONS: &str = "Durable sessions for agent swarms: agents, tasks, messages, memory and effects that survive any crash. \
Every tool names its session in `session`. Begin with `session_open`: it resumes a session exactly where it stood, or makes it; the prompt `resume_session` \
says what stands, what is open, who is alive and what waits. Every tool that writes wants a `request_id`: a name of your own, new for each request; when an \
answer did not come, repeat the call with the same one, and it is not carried out twice. An answer means that it is on disk. Before anything that \
must not happen twice is done outside, ask `effect_begin`.";

/// The server, as one client sees it. Cheap to clone, and without state of its own.
#[derive(Clone)]
pub(super) struct Surface {
    api: Api,
    tasks: Tasks,
}

impl Surface {
    pub(super) fn new(api: Api) -> Self {
        Self { tasks: Tasks::new(api.clone()), api }
    }

    async fn described(&self) -> Result<Vec<Described>, Problem> {
        let document = self.api.document().await?;
        tools::all().map(|tool| tool.described(document)).collect()
    }
}

/// A fault on this side. What a caller did wrong is a tool's answer, not this.
pub(super) fn internal(problem: Problem) -> ErrorData {
    ErrorData::internal_error(problem.detail, None)
}

impl ServerHandler for Surface {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_prompts()
            .enable_completions()
            .enable_tasks()
            .build();
        let about = Implementation::new("swarmkeep", env!("CARGO_PKG_VERSION"))
            .with_title("swarmkeep")
            .with_description("Durable sessions for agent swarms");
        ServerConfig::new(capabilities).with_server_info(about).with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.described().await.map_err(internal)?))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = tools::named(&request.name) else {
            let name: String = request.name.chars().take(80).collect();
            return Err(ErrorData::invalid_params(format!("there is no tool `{name}`"), None));
        };
        let arguments = request.arguments.unwrap_or_default();
        // Whoever knows tasks need not hold a request open for minutes.
        if tool.is_long && context.client_capabilities().is_some_and(|capabilities| capabilities.supports_tasks()) {
            return Ok(match self.tasks.begin(tool.name, arguments).await {
                Ok(task) => task.into(),
                Err(problem) => call::failed(&problem).into(),
            });
        }
        Ok(call::call(&self.api, tool, arguments).await.into())
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        resource::list(&self.api, request.and_then(|request| request.cursor)).await
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resource::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        resource::read(&self.api, &request.uri).await.map(Into::into)
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompt::all()))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        prompt::get(&self.api, &request.name, &request.arguments.unwrap_or_default()).await.map(Into::into)
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        completion::complete(&self.api, request).await
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.tasks.get(&request.task_id).await.map(GetTaskResult::new).map_err(of_task)
    }

    async fn cancel_task(&self, request: CancelTaskParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        self.tasks.cancel(&request.task_id).await.map_err(of_task)
    }
}

fn of_task(problem: Problem) -> ErrorData {
    match problem.code.as_str() {
        "not_found" => ErrorData::invalid_params(problem.detail, None),
        _ => internal(problem),
    }
}
