export function DeploymentPage({ id }: { id: string }) { return <p class="empty">{id}</p> }
