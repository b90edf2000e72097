"""Request bodies of the OpenAI API, with the extra sampling fields that vLLM's clients send.

Types are strict and unknown fields are refused, so that no setting is silently without effect.
Fields of OpenAI's that this server does not serve are refused by name with the reason; they may
be null. Source: OpenAI's API reference; vLLM's documentation of extra parameters.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "EmbeddingRequest",
    "GenerationFields",
    "NamedTool",
    "ResponseFormat",
    "StreamOptions",
    "Tool",
]

NOT_SERVED = {
    "audio": "audio output is not served",
    "best_of": "best_of is not served; ask for n choices and rank them",
    "dimensions": "embeddings are not shortened; cut and normalize them in the client",
    "function_call": "functions are replaced by tools; use tool_choice",
    "functions": "functions are replaced by tools; use tools",
    "metadata": "nothing is stored, so metadata would have no effect",
    "modalities": "only text is served",
    "prediction": "predicted outputs are not served",
    "prompt_logprobs": "log-probabilities of the prompt are not served",
    "reasoning_effort": "reasoning effort has no effect here; see chat_template_kwargs",
    "service_tier": "there is one service tier",
    "store": "nothing is stored",
    "suffix": "text after the completion (suffix) is not served",
    "web_search_options": "the server does not search the web",
}

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
TokenLists = Annotated[list[TokenIds], Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
BiasKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Strict(BaseModel):
    """No conversions, no unknown fields, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Body(Strict):
    """A request body: names the fields that are known and not served."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        unserved = NOT_SERVED.keys() - cls.model_fields.keys()
        for name in sorted(unserved & data.keys()):
            if data[name] is not None:
                raise ValueError(f"{name} is not supported: {NOT_SERVED[name]}")
        return {name: value for name, value in data.items() if name not in unserved}


class StreamOptions(Strict):
    """What a stream carries beside text; ``continuous_usage_stats`` is usage on every chunk."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class JsonSchemaFormat(Strict):
    """A named JSON schema; ``strict`` is what the constraint is anyway."""

    name: Name
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """Plain text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with type json_schema, and only with it")
        return self


class GenerationFields(Body):
    """What completions and chats share. ``top_k`` -1 is off, as vLLM's clients write it."""

    model: Name
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    logit_bias: Annotated[dict[BiasKey, Bias], Field(max_length=1024)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    response_format: ResponseFormat | None = None
    user: Annotated[str, Field(max_length=256)] | None = Field(
        default=None, description="Who asks, for the log."
    )

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, however they were given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @model_validator(mode="after")
    def _agrees(self) -> "GenerationFields":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options has no effect without stream")
        return self


class CompletionRequest(GenerationFields):
    """Body of /v1/completions."""

    prompt: Text | TokenIds | Texts | TokenLists
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None

    @model_validator(mode="after")
    def _no_prompt_logprobs(self) -> "CompletionRequest":
        if self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs is not supported: the prompt's are not served")
        return self


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise ValueError(f"content parts of type {kind[:40]} are not supported, only text")
        return data


class CalledFunction(Strict):
    """The function a past message called; ``arguments`` is JSON text."""

    name: ToolName
    arguments: str


class PastToolCall(Strict):
    """A tool call in a past message of the assistant."""

    id: Name
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Strict):
    """One message. Fields that clients send back from an answer may be there and empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Name | None = None
    tool_calls: list[PastToolCall] | None = None
    tool_call_id: Name | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _has_content(self) -> "ChatMessage":
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"a message of role {self.role} needs content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only messages of the assistant have tool_calls")
        return self


class FunctionTool(Strict):
    """A function the model may call; ``parameters`` is a JSON schema."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool of the only type there is."""

    type: Literal["function"]
    function: FunctionTool


class ToolReference(Strict):
    """A function by name."""

    name: ToolName


class NamedTool(Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: ToolReference


class ChatRequest(GenerationFields):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=32)] | None = None

    @field_validator("chat_template_kwargs")
    @classmethod
    def _plain_names(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in value or {}:
            if not name.isidentifier() or name.startswith("_"):
                raise ValueError(f"{name[:40]!r} is not the name of a template variable")
        return value

    @model_validator(mode="after")
    def _tools_agree(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs has no effect without logprobs")
        if self.tool_choice not in (None, "none") and not self.tools:
            raise ValueError("tool_choice needs tools")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError("tool_choice names a function that is not among tools")
        return self


class EmbeddingRequest(Body):
    """Body of /v1/embeddings; ``pooling`` and ``normalize`` are this server's own."""

    model: Name
    input: Text | TokenIds | Texts | TokenLists
    encoding_format: Literal["float", "base64"] | None = None
    pooling: Literal["mean", "last"] | None = None
    normalize: bool = True
    user: Annotated[str, Field(max_length=256)] | None = None
